// When a launch ends: its CTAs, in their order, on the multiprocessors of a GPU.
#pragma once

#include "cuda/plan/plan.h"

namespace deltaconv::cuda {

// Model cycles from the first CTA's start to the last one's end, from plan.cycles, plan.resident and the order of the
// CTAs. A CTA starts as soon as a multiprocessor has room, on the one that has the fewest, and of several the one that
// will have room again first. CTAs of a multiprocessor slow each other down, each by the part of its time in which it
// keeps a unit busy:
//
//   alone 10 cycles, 4 of them busy     one CTA: 10     two at once: 10 + 4     three at once: 10 + 2 * 4
//
// CTAs that have nothing to do take no time. A launch of many rounds is dealt CTA by CTA only towards its end.
double schedule_cycles(const PlanProblem& problem, const DeviceProperties& device, const LaunchPlan& plan);

// CTAs of stages.at[stage] that have something to do.
int64_t ctas_of(const PlanProblem& problem, const LaunchPlan& plan, int32_t stage);

// The first of these launches of a problem to end, with its estimate; nothing where there is none.
std::optional<LaunchPlan> fastest(const PlanProblem& problem, const DeviceProperties& device,
                                  std::vector<LaunchPlan> launches);

}  // namespace deltaconv::cuda

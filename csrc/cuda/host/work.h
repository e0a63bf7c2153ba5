// The work that the plan's model sees in a launch's CTAs, for the fit of its rates to executed CTAs.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cuda/plan/banded_cost.h"
#include "cuda/plan/cuda_cores_cost.h"

namespace deltaconv::cuda {

inline WorkPhases cta_work(const PlanProblem& problem, const LaunchPlan& plan, const Stage& stage,
                           const std::string& launch) {
  if (plan.path == Path::kCudaCores) return cuda_cores::cta_work(problem, stage, launch == "forward");
  WorkPhases phases;
  tensor_cores::with_banded_tile(problem.sizes.K, stage.tiling, [&](auto banded) {
    const tensor_cores::CtaWork<decltype(banded)> work(problem, stage, plan.grid.threads);
    if (launch == "forward") phases = work.forward();
    if (launch == "pyramid") phases = work.planar_forward();
    if (launch == "gate") phases = work.gate();
    if (launch == "reduced") phases = work.adjoint({4, 0});
    if (launch == "input") phases = work.adjoint({2, static_cast<double>(problem.factors.size()) - 1});
  });
  return phases;
}

// Counts of work of one CTA of each stage, by the stage's index, in the order of the enumeration Work; the last number
// is that of products 16 deep.
inline std::map<int32_t, std::vector<double>> launch_work(const PlanProblem& problem, const LaunchPlan& plan,
                                                          const std::string& launch) {
  std::map<int32_t, std::vector<double>> counts;
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    WorkPhase all;
    for (const WorkPhase& phase : cta_work(problem, plan, plan.stages.at[s], launch)) all = all + phase;
    auto& of_stage = counts[plan.stages.at[s].index];
    of_stage.assign(all.counts.begin(), all.counts.end());
    of_stage.push_back(all.products);
  }
  return counts;
}

}  // namespace deltaconv::cuda

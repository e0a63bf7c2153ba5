// Plans of problems that come again: a plan takes tens of microseconds, and a model asks for few of them, again and
// again. A reference is valid until the thread's next call of the same function.
#pragma once

#include "cuda/plan/fused_block.h"

namespace deltaconv::cuda {

const std::vector<LaunchPlan>& remembered_forward_plan(const PlanProblem& problem, const DeviceProperties& device);
const BackwardPlan& remembered_backward_plan(const PlanProblem& problem, const DeviceProperties& device);
const FusedBlockPlan& remembered_fused_block_plan(const FusedBlockProblem& problem, const DeviceProperties& device);

}  // namespace deltaconv::cuda

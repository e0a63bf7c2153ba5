// Launches of a whole plan, on either path.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/cuda_cores/launch.h"
#include "cuda/tensor_cores/launch.h"

namespace deltaconv::cuda {

// All of a plan; the arguments' stages come from it.
template <class T>
void launch_forward(const std::vector<LaunchPlan>& plans, ForwardArguments<T> arguments, Stream stream) {
  for (const LaunchPlan& plan : plans) {
    arguments.problem.stages = plan.stages;
    arguments.problem.pairs = plan.pairs;
    if constexpr (sizeof(T) == 2) {
      if (plan.road == Road::kTensorCores) {
        launch_tensor_cores_forward(plan, arguments, stream);
        continue;
      }
    }
    launch_cuda_cores_forward(plan, arguments, stream);
  }
}

// All of the backward pass; a gradient that is null is not computed. The arguments' stages and offsets come
// from the plan.
template <class T>
void launch_backward(const BackwardPlan& plan, BackwardArguments<T> arguments, T* grad_weight, T* grad_bias,
                     Stream stream) {
  std::copy_n(plan.workspace.grad_a, kMaxStages, arguments.grad_a);
  std::copy_n(plan.workspace.scales, kMaxStages, arguments.scales);
  std::copy_n(plan.workspace.inputs, kMaxStages, arguments.inputs);
  std::copy_n(plan.workspace.grad_d, kMaxStages, arguments.grad_d);
  arguments.keep_inputs = grad_weight || grad_bias;
  if (sizeof(T) == 2 && plan.gate.road == Road::kTensorCores) {
    if constexpr (sizeof(T) == 2) {
      launch_tensor_cores_gate(plan.gate, arguments, stream);
      if (arguments.grad_x) launch_tensor_cores_input(plan, arguments, stream);
      if (arguments.keep_inputs) launch_tensor_cores_weight(plan, arguments, stream);
    }
  } else {
    launch_backward_gate(plan.gate, arguments, stream);
    if (arguments.grad_x) launch_backward_input(plan, arguments, stream);
    if (arguments.keep_inputs) launch_backward_weight(plan, arguments, stream);
  }
  if (arguments.keep_inputs) launch_backward_sums(plan, arguments, grad_weight, grad_bias, stream);
}

}  // namespace deltaconv::cuda

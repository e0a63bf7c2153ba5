// Launches of a whole plan, on either path.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/cuda_cores/launch.h"
#include "cuda/tensor_cores/launch.h"

namespace deltaconv::cuda {

// Launches all of a forward plan. The stages of the arguments come from the plan.
template <class T>
void launch_forward(const std::vector<LaunchPlan>& plans, ForwardArguments<T> arguments, Stream stream) {
  for (const LaunchPlan& plan : plans) {
    arguments.problem.stages = plan.stages;
    arguments.problem.pairs = plan.pairs;
    if constexpr (sizeof(T) == 2) {
      if (plan.path == Path::kTensorCores) {
        tensor_cores::launch_forward(plan, arguments, stream);
        continue;
      }
    }
    cuda_cores::launch_forward(plan, arguments, stream);
  }
}

// Launches all of the backward pass. A gradient whose pointer is null is not computed. The stages and offsets of the
// arguments come from the plan.
template <class T>
void launch_backward(const BackwardPlan& plan, BackwardArguments<T> arguments, T* grad_weight, T* grad_bias,
                     Stream stream) {
  std::copy_n(plan.workspace.grad_a, kMaxStages, arguments.grad_a);
  std::copy_n(plan.workspace.scales, kMaxStages, arguments.scales);
  std::copy_n(plan.workspace.inputs, kMaxStages, arguments.inputs);
  std::copy_n(plan.workspace.grad_d, kMaxStages, arguments.grad_d);
  arguments.keep_inputs = grad_weight || grad_bias;
  const Stream after = stream.following();
  if (sizeof(T) == 2 && plan.gate.path == Path::kTensorCores) {
    if constexpr (sizeof(T) == 2) {
      tensor_cores::launch_backward_gate(plan.gate, arguments, stream);
      if (arguments.grad_x) tensor_cores::launch_backward_input(plan, arguments, after);
      if (arguments.keep_inputs) tensor_cores::launch_backward_weight(plan, arguments, after);
    }
  } else {
    cuda_cores::launch_backward_gate(plan.gate, arguments, stream);
    if (arguments.grad_x) cuda_cores::launch_backward_input(plan, arguments, after);
    if (arguments.keep_inputs) cuda_cores::launch_backward_weight(plan, arguments, after);
  }
  if (arguments.keep_inputs) cuda_cores::launch_backward_sums(plan, arguments, grad_weight, grad_bias, after);
}

}  // namespace deltaconv::cuda

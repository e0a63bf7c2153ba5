// Launches of planned kernels. Each is instantiated for float, Half and BFloat16 in a translation unit of its
// own.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/plan.h"
#include "cuda/problem.h"

namespace deltaconv::cuda {

template <class T>
void launch_cuda_cores_forward(const LaunchPlan& plan, const ForwardArguments<T>& arguments, Stream stream);

// For Half and BFloat16.
template <class T>
void launch_tensor_cores_forward(const LaunchPlan& plan, const ForwardArguments<T>& arguments, Stream stream);

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

// The parts of the backward pass, in their order.
template <class T>
void launch_backward_gate(const LaunchPlan& plan, BackwardArguments<T> arguments, Stream stream);
template <class T>
void launch_backward_input(const BackwardPlan& plan, BackwardArguments<T> arguments, Stream stream);
template <class T>
void launch_backward_weight(const BackwardPlan& plan, BackwardArguments<T> arguments, Stream stream);
// Adds up the partial sums of either road.
template <class T>
void launch_backward_sums(const BackwardPlan& plan, const BackwardArguments<T>& arguments, T* grad_weight, T* grad_bias,
                          Stream stream);

// The same parts on tensor cores, for Half and BFloat16.
template <class T>
void launch_tensor_cores_gate(const LaunchPlan& plan, BackwardArguments<T> arguments, Stream stream);
template <class T>
void launch_tensor_cores_input(const BackwardPlan& plan, const BackwardArguments<T>& arguments, Stream stream);
template <class T>
void launch_tensor_cores_weight(const BackwardPlan& plan, const BackwardArguments<T>& arguments, Stream stream);

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

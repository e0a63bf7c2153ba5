// Launches of planned kernels on tensor cores. Each is instantiated for Half and BFloat16.
#pragma once

#include "cuda/layout/problem.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda {

template <class T>
void launch_tensor_cores_forward(const LaunchPlan& plan, const ForwardArguments<T>& arguments, Stream stream);

// The parts of the backward pass, in their order.
template <class T>
void launch_tensor_cores_gate(const LaunchPlan& plan, BackwardArguments<T> arguments, Stream stream);
template <class T>
void launch_tensor_cores_input(const BackwardPlan& plan, const BackwardArguments<T>& arguments, Stream stream);
template <class T>
void launch_tensor_cores_weight(const BackwardPlan& plan, const BackwardArguments<T>& arguments, Stream stream);

}  // namespace deltaconv::cuda

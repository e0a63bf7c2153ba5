// Launches of planned kernels on CUDA cores. Their sources are compiled for float, Half and BFloat16.
#pragma once

#include "cuda/layout/problem.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda::cuda_cores {

template <class T>
void launch_forward(const LaunchPlan& plan, const ForwardArguments<T>& arguments, Stream stream);

// The parts of the backward pass, in their order.
template <class T>
void launch_backward_gate(const LaunchPlan& plan, BackwardArguments<T> arguments, Stream stream);
template <class T>
void launch_backward_input(const BackwardPlan& plan, BackwardArguments<T> arguments, Stream stream);
template <class T>
void launch_backward_weight(const BackwardPlan& plan, BackwardArguments<T> arguments, Stream stream);

// Adds up the partial sums of either path.
template <class T>
void launch_backward_sums(const BackwardPlan& plan, const BackwardArguments<T>& arguments, T* grad_weight, T* grad_bias,
                          Stream stream);

}  // namespace deltaconv::cuda::cuda_cores

// Launches of planned kernels on tensor cores. Their sources are compiled for Half and BFloat16.
#pragma once

#include "cuda/layout/problem.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda::tensor_cores {

template <class T>
void launch_forward(const LaunchPlan& plan, const ForwardArguments<T>& arguments, Stream stream);

// The pyramid of a fused block, from channel planes.
template <class T>
void launch_planar_forward(const LaunchPlan& plan, const PlanarForwardArguments<T>& arguments, Stream stream);

// The parts of the backward pass, in their order.
template <class T>
void launch_backward_gate(const LaunchPlan& plan, BackwardArguments<T> arguments, Stream stream);
template <class T>
void launch_backward_input(const BackwardPlan& plan, const BackwardArguments<T>& arguments, Stream stream);
template <class T>
void launch_backward_weight(const BackwardPlan& plan, const BackwardArguments<T>& arguments, Stream stream);

}  // namespace deltaconv::cuda::tensor_cores

// The backward pass's launches for storage type DELTACONV_STORAGE.
#include <algorithm>

#include "cuda/cuda_cores/backward_gate.h"
#include "cuda/cuda_cores/backward_input.h"
#include "cuda/cuda_cores/backward_weight.h"
#include "cuda/cuda_cores/kernel_sizes.h"
#include "cuda/cuda_cores/launch.h"

namespace deltaconv::cuda::cuda_cores {

template <class T>
void launch_backward_gate(const LaunchPlan& plan, BackwardArguments<T> arguments, Stream stream) {
  arguments.problem.stages = plan.stages;
  with_kernel_size(arguments.problem.sizes.K, [&](auto kernel) {
    launch<PyramidBackwardGate<T, decltype(kernel)::value>>(plan.grid, arguments, stream);
  });
}

template <class T>
void launch_backward_input(const BackwardPlan& plan, BackwardArguments<T> arguments, Stream stream) {
  with_kernel_size(arguments.problem.sizes.K, [&](auto kernel) {
    arguments.problem.stages = plan.reduced.stages;
    launch<PyramidBackwardPooledInput<T, decltype(kernel)::value>>(plan.reduced.grid, arguments, stream);
    arguments.problem.stages = plan.gate.stages;
    const BackwardInputArguments<T> all{arguments, plan.input.stages, true};
    launch<PyramidBackwardInput<T, decltype(kernel)::value>>(plan.input.grid, all, stream);
  });
}

template <class T>
void launch_backward_weight(const BackwardPlan& plan, BackwardArguments<T> arguments, Stream stream) {
  const WeightPlan& weight = plan.weight;
  arguments.problem.stages = weight.stages;
  const BackwardWeightArguments<T> all{arguments, arguments.workspace + plan.workspace.partials, weight.partitions,
                                       weight.tasks_per_cta, weight.slices};
  with_kernel_size(arguments.problem.sizes.K, [&](auto kernel) {
    launch<PyramidBackwardWeight<T, decltype(kernel)::value>>(weight.grid, all, stream);
  });
}

template <class T>
void launch_backward_sums(const BackwardPlan& plan, const BackwardArguments<T>& arguments, T* grad_weight, T* grad_bias,
                          Stream stream) {
  const Sizes& sizes = arguments.problem.sizes;
  WeightSumArguments<T> reduce{sizes, arguments.workspace + plan.workspace.partials, {}, grad_weight, grad_bias};
  std::copy_n(plan.weight.stage_partitions, kMaxStages, reduce.partitions);
  const int64_t elements = sizes.S * (sizes.K * sizes.K + 1) * sizes.C;
  launch<PyramidBackwardWeightSum<T>>({(elements + kMaxThreads - 1) / kMaxThreads, kMaxThreads, 0}, reduce, stream);
}

template void launch_backward_gate(const LaunchPlan&, BackwardArguments<DELTACONV_STORAGE>, Stream);
template void launch_backward_input(const BackwardPlan&, BackwardArguments<DELTACONV_STORAGE>, Stream);
template void launch_backward_weight(const BackwardPlan&, BackwardArguments<DELTACONV_STORAGE>, Stream);
template void launch_backward_sums(const BackwardPlan&, const BackwardArguments<DELTACONV_STORAGE>&, DELTACONV_STORAGE*,
                                   DELTACONV_STORAGE*, Stream);

}  // namespace deltaconv::cuda::cuda_cores

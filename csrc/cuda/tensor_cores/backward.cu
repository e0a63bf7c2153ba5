// The backward pass's launches on tensor cores but that of the weight gradient, for storage type DELTACONV_STORAGE.
#include "cuda/tensor_cores/backward_gate.h"
#include "cuda/tensor_cores/backward_input.h"
#include "cuda/tensor_cores/launch.h"
#include "cuda/tensor_cores/with_tile.h"

namespace deltaconv::cuda::tensor_cores {

template <class T>
void launch_backward_gate(const LaunchPlan& plan, BackwardArguments<T> arguments, Stream stream) {
  arguments.problem.stages = plan.stages;
  with_band(arguments.problem.sizes.K,
            [&](auto band) { launch<PyramidBackwardGate<T, decltype(band)::value>>(plan.grid, arguments, stream); });
}

template <class T>
void launch_backward_input(const BackwardPlan& plan, const BackwardArguments<T>& arguments, Stream stream) {
  BackwardInputArguments<T> all{arguments, {}, false};
  all.backward.problem.stages = plan.gate.stages;
  for (const LaunchPlan* part : {&plan.reduced, &plan.input}) {
    all.tiles = part->stages;
    all.last = part == &plan.input;
    with_banded_tile(arguments.problem.sizes.K, *part,
                     [&](auto banded) { launch<PyramidBackwardInput<T, decltype(banded)>>(part->grid, all, stream); });
  }
}

template void launch_backward_gate(const LaunchPlan&, BackwardArguments<DELTACONV_STORAGE>, Stream);
template void launch_backward_input(const BackwardPlan&, const BackwardArguments<DELTACONV_STORAGE>&, Stream);

}  // namespace deltaconv::cuda::tensor_cores

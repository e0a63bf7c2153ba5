// The forward's launch on tensor cores for storage type DELTACONV_STORAGE.
#include "cuda/tensor_cores/forward.h"
#include "cuda/tensor_cores/launch.h"
#include "cuda/tensor_cores/with_tile.h"

namespace deltaconv::cuda::tensor_cores {

template <class T>
void launch_forward(const LaunchPlan& plan, const ForwardArguments<T>& arguments, Stream stream) {
  with_banded_tile(arguments.problem.sizes.K, plan,
                   [&](auto banded) { launch<PyramidForward<T, decltype(banded)>>(plan.grid, arguments, stream); });
}

template void launch_forward(const LaunchPlan&, const ForwardArguments<DELTACONV_STORAGE>&, Stream);

}  // namespace deltaconv::cuda::tensor_cores

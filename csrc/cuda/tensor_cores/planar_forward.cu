// The launch of a fused block's pyramid on tensor cores for storage type DELTACONV_STORAGE.
#include "cuda/tensor_cores/planar_forward.h"

#include "cuda/tensor_cores/launch.h"
#include "cuda/tensor_cores/with_tile.h"

namespace deltaconv::cuda::tensor_cores {

template <class T>
void launch_planar_forward(const LaunchPlan& plan, const PlanarForwardArguments<T>& arguments, Stream stream) {
  with_banded_tile(arguments.forward.problem.sizes.K, plan,
                   [&](auto banded) { launch<PlanarForward<T, decltype(banded)>>(plan.grid, arguments, stream); });
}

template void launch_planar_forward(const LaunchPlan&, const PlanarForwardArguments<DELTACONV_STORAGE>&, Stream);

}  // namespace deltaconv::cuda::tensor_cores

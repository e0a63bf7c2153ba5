// The forward's launch for storage type DELTACONV_STORAGE.
#include "cuda/cuda_cores/forward.h"
#include "cuda/cuda_cores/kernel_sizes.h"
#include "cuda/cuda_cores/launch.h"

namespace deltaconv::cuda::cuda_cores {

template <class T>
void launch_forward(const LaunchPlan& plan, const ForwardArguments<T>& arguments, Stream stream) {
  with_kernel_size(arguments.problem.sizes.K, [&](auto kernel) {
    launch<PyramidForward<T, decltype(kernel)::value>>(plan.grid, arguments, stream);
  });
}

template void launch_forward(const LaunchPlan&, const ForwardArguments<DELTACONV_STORAGE>&, Stream);

}  // namespace deltaconv::cuda::cuda_cores

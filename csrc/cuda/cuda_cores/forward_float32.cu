#include "cuda/cuda_cores/forward.h"

namespace deltaconv::cuda {

template void launch_cuda_cores_forward(const LaunchPlan&, const ForwardArguments<float>&, Stream);

}  // namespace deltaconv::cuda

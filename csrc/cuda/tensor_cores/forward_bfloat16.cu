#include "cuda/tensor_cores/forward.h"

namespace deltaconv::cuda {

template void launch_tensor_cores_forward(const LaunchPlan&, const ForwardArguments<BFloat16>&, Stream);

}  // namespace deltaconv::cuda

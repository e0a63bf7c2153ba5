#include "cuda/forward_banded.h"

namespace deltaconv::cuda {

template void launch_tensor_cores_forward(const LaunchPlan&, const ForwardArguments<BFloat16>&, Stream);

}  // namespace deltaconv::cuda

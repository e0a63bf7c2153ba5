#include "cuda/tensor_cores/forward.h"

namespace deltaconv::cuda {

template void launch_tensor_cores_forward(const LaunchPlan&, const ForwardArguments<Half>&, Stream);

}  // namespace deltaconv::cuda

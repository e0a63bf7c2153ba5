#include "cuda/tensor_cores/backward_launch.h"

namespace deltaconv::cuda {

template void launch_tensor_cores_gate(const LaunchPlan&, BackwardArguments<BFloat16>, Stream);
template void launch_tensor_cores_input(const BackwardPlan&, const BackwardArguments<BFloat16>&, Stream);

}  // namespace deltaconv::cuda

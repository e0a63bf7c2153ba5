#include "cuda/tensor_cores/backward_launch.h"

namespace deltaconv::cuda {

template void launch_tensor_cores_gate(const LaunchPlan&, BackwardArguments<Half>, Stream);
template void launch_tensor_cores_input(const BackwardPlan&, const BackwardArguments<Half>&, Stream);

}  // namespace deltaconv::cuda

#include "cuda/cuda_cores/backward_launch.h"

namespace deltaconv::cuda {

template void launch_backward_gate(const LaunchPlan&, BackwardArguments<Half>, Stream);
template void launch_backward_input(const BackwardPlan&, BackwardArguments<Half>, Stream);
template void launch_backward_weight(const BackwardPlan&, BackwardArguments<Half>, Stream);
template void launch_backward_sums(const BackwardPlan&, const BackwardArguments<Half>&, Half*, Half*, Stream);

}  // namespace deltaconv::cuda

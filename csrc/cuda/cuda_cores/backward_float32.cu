#include "cuda/cuda_cores/backward_launch.h"

namespace deltaconv::cuda {

template void launch_backward_gate(const LaunchPlan&, BackwardArguments<float>, Stream);
template void launch_backward_input(const BackwardPlan&, BackwardArguments<float>, Stream);
template void launch_backward_weight(const BackwardPlan&, BackwardArguments<float>, Stream);
template void launch_backward_sums(const BackwardPlan&, const BackwardArguments<float>&, float*, float*, Stream);

}  // namespace deltaconv::cuda

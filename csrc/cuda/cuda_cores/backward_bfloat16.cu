#include "cuda/cuda_cores/backward_launch.h"

namespace deltaconv::cuda {

template void launch_backward_gate(const LaunchPlan&, BackwardArguments<BFloat16>, Stream);
template void launch_backward_input(const BackwardPlan&, BackwardArguments<BFloat16>, Stream);
template void launch_backward_weight(const BackwardPlan&, BackwardArguments<BFloat16>, Stream);
template void launch_backward_sums(const BackwardPlan&, const BackwardArguments<BFloat16>&, BFloat16*, BFloat16*,
                                   Stream);

}  // namespace deltaconv::cuda

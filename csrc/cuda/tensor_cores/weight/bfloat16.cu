#include "cuda/tensor_cores/weight/kernel.h"

namespace deltaconv::cuda {

template void launch_tensor_cores_weight(const BackwardPlan&, const BackwardArguments<BFloat16>&, Stream);

}  // namespace deltaconv::cuda

#include "cuda/fused_block/launches.h"

namespace deltaconv::cuda {

template void launch_in_projection(const ProjectionPlan&, const InProjectionArguments<BFloat16>&, Stream);
template void launch_shift(const Grid&, const ShiftArguments<BFloat16>&, Stream);
template void launch_out_projection(const ProjectionPlan&, const OutProjectionArguments<BFloat16>&, Stream);

}  // namespace deltaconv::cuda

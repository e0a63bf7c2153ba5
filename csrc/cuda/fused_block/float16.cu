#include "cuda/fused_block/launches.h"

namespace deltaconv::cuda {

template void launch_in_projection(const ProjectionPlan&, const InProjectionArguments<Half>&, Stream);
template void launch_shift(const Grid&, const ShiftArguments<Half>&, Stream);
template void launch_out_projection(const ProjectionPlan&, const OutProjectionArguments<Half>&, Stream);

}  // namespace deltaconv::cuda

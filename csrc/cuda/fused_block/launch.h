// Launches of the fused block's own kernels. The source is compiled for Half and BFloat16.
#pragma once

#include "cuda/fused_block/arguments.h"
#include "cuda/plan/fused_block.h"

namespace deltaconv::cuda::fused_block {

template <class T>
void launch_in_projection(const ProjectionPlan& plan, const InProjectionArguments<T>& arguments, Stream stream);
template <class T>
void launch_planar_in_projection(const ProjectionPlan& plan, const PlanarInProjectionArguments<T>& arguments,
                                 Stream stream);
template <class T>
void launch_shift(const Grid& grid, const ShiftArguments<T>& arguments, Stream stream);
template <class T>
void launch_out_projection(const ProjectionPlan& plan, const OutProjectionArguments<T>& arguments, Stream stream);

}  // namespace deltaconv::cuda::fused_block

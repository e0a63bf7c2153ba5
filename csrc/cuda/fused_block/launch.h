// Launches of the fused block's own kernels. Each is instantiated for Half and BFloat16.
#pragma once

#include "cuda/fused_block/arguments.h"
#include "cuda/plan/fused_block.h"

namespace deltaconv::cuda {

template <class T>
void launch_in_projection(const ProjectionPlan& plan, const InProjectionArguments<T>& arguments, Stream stream);
template <class T>
void launch_shift(const Grid& grid, const ShiftArguments<T>& arguments, Stream stream);
template <class T>
void launch_out_projection(const ProjectionPlan& plan, const OutProjectionArguments<T>& arguments, Stream stream);

}  // namespace deltaconv::cuda

// The launches of launch.h from their kernels.
#pragma once

#include "cuda/fused_block/launch.h"
#include "cuda/fused_block/projection.h"
#include "cuda/fused_block/shift.h"

namespace deltaconv::cuda {

// Calls launch with the tile of the plan.
template <class Launch>
void with_product_tile(const ProjectionPlan& plan, const Launch& launch) {
  for_each_product_tile([&](auto tile) {
    if (plan.tile_rows == tile.kRows && plan.tile_cols == tile.kCols) launch(tile);
  });
}

template <class T>
void launch_in_projection(const ProjectionPlan& plan, const InProjectionArguments<T>& arguments, Stream stream) {
  with_product_tile(plan,
                    [&](auto tile) { launch<BlockInProjection<T, decltype(tile)>>(plan.grid, arguments, stream); });
}

template <class T>
void launch_shift(const Grid& grid, const ShiftArguments<T>& arguments, Stream stream) {
  launch<BlockShift<T>>(grid, arguments, stream);
}

template <class T>
void launch_out_projection(const ProjectionPlan& plan, const OutProjectionArguments<T>& arguments, Stream stream) {
  with_product_tile(plan,
                    [&](auto tile) { launch<BlockOutProjection<T, decltype(tile)>>(plan.grid, arguments, stream); });
}

}  // namespace deltaconv::cuda

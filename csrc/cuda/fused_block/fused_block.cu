// The launches of the fused block's own kernels for storage type DELTACONV_STORAGE.
#include "cuda/fused_block/launch.h"
#include "cuda/fused_block/planar_projection.h"
#include "cuda/fused_block/projection.h"
#include "cuda/fused_block/shift.h"

namespace deltaconv::cuda::fused_block {

// Calls launch with the tile of the plan.
template <class Launch>
void with_product_tile(const ProjectionPlan& plan, const Launch& launch) {
  for_each_product_tile([&](auto tile) {
    if (plan.tile_rows == tile.kRows && plan.tile_cols == tile.kCols) launch(tile);
  });
}

template <class T>
void launch_in_projection(const ProjectionPlan& plan, const InProjectionArguments<T>& arguments, Stream stream) {
  with_product_tile(plan, [&](auto tile) { launch<InProjection<T, decltype(tile)>>(plan.grid, arguments, stream); });
}

template <class T>
void launch_planar_in_projection(const ProjectionPlan& plan, const PlanarInProjectionArguments<T>& arguments,
                                 Stream stream) {
  for_each_planar_product_tile([&](auto tile) {
    if (plan.tile_rows != tile.kCols || plan.tile_cols != tile.kRows) return;
    launch<PlanarInProjection<T, decltype(tile)>>(plan.grid, arguments, stream);
  });
}

template <class T>
void launch_shift(const Grid& grid, const ShiftArguments<T>& arguments, Stream stream) {
  launch<Shift<T>>(grid, arguments, stream);
}

template <class T>
void launch_out_projection(const ProjectionPlan& plan, const OutProjectionArguments<T>& arguments, Stream stream) {
  with_product_tile(plan, [&](auto tile) { launch<OutProjection<T, decltype(tile)>>(plan.grid, arguments, stream); });
}

template void launch_in_projection(const ProjectionPlan&, const InProjectionArguments<DELTACONV_STORAGE>&, Stream);
template void launch_planar_in_projection(const ProjectionPlan&, const PlanarInProjectionArguments<DELTACONV_STORAGE>&,
                                          Stream);
template void launch_shift(const Grid&, const ShiftArguments<DELTACONV_STORAGE>&, Stream);
template void launch_out_projection(const ProjectionPlan&, const OutProjectionArguments<DELTACONV_STORAGE>&, Stream);

}  // namespace deltaconv::cuda::fused_block

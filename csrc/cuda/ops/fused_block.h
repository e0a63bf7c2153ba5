// All launches of the fused block.
#pragma once

#include "cuda/fused_block/launch.h"
#include "cuda/ops/launch.h"

namespace deltaconv::cuda {

// The fused block's tensors, contiguous and 16-byte aligned, by address.
template <class T>
struct FusedBlockTensors {
  const T *x, *residual;             // [B, H, W, dim]; residual may be null
  const T *in_weight, *in_bias;      // [C, dim], [C] or null
  const T *out_weight, *out_bias;    // [dim, S * C / 2], [dim] or null
  const T *pool_weight, *pool_bias;  // [dim, dim], [dim] or null
  T *hidden, *local, *result;        // [B, H, W, C], [B, H, W, S * C / 2], [B, H, W, dim]
  float* workspace;                  // plan.sums + plan.shifts floats
};

template <class T>
fused_block::Projection<T> projection_of(const ProjectionPlan& plan, const Sizes& sizes, const T* from, const T* weight,
                                         T* to) {
  return {sizes.B,
          sizes.H * sizes.W,
          static_cast<int32_t>(plan.depth),
          static_cast<int32_t>(plan.cols),
          plan.row_tiles,
          plan.col_tiles,
          from,
          weight,
          to};
}

// Launches all of the fused block. `pyramid` is the problem in between, from `hidden` to `local`.
template <class T>
void launch_fused_block(const FusedBlockPlan& plan, const FusedBlockTensors<T>& tensors, const Problem<T>& pyramid,
                        Stream stream) {
  const Sizes& sizes = pyramid.sizes;
  const Stream after = stream.following();
  const auto dim = static_cast<int32_t>(plan.out.cols);
  float *sums = tensors.workspace, *shifts = sums + plan.sums;
  fused_block::launch_in_projection<T>(
      plan.in, {projection_of(plan.in, sizes, tensors.x, tensors.in_weight, tensors.hidden), tensors.in_bias, sums},
      stream);
  fused_block::launch_shift<T>(
      plan.shift,
      {sizes.B, sizes.H * sizes.W, dim, plan.in.row_tiles, plan.shift_slices, plan.shift_output_tiles, sums,
       tensors.pool_weight, tensors.pool_bias, tensors.out_bias, shifts},
      after);
  launch_forward<T>(plan.pyramid, {pyramid, {nullptr, 0, 0, 0}, tensors.local}, after);
  fused_block::launch_out_projection<T>(
      plan.out,
      {projection_of<T>(plan.out, sizes, tensors.local, tensors.out_weight, tensors.result), plan.shift_slices, shifts,
       tensors.residual},
      after);
}

}  // namespace deltaconv::cuda

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
  T* hidden;                         // plan.hidden values
  T *local, *result;                 // [B, H, W, S * C / 2], [B, H, W, dim]
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

// Launches the in-projection.
template <class T>
void launch_in_projection(const FusedBlockPlan& plan, const Sizes& sizes,
                          const fused_block::InProjectionArguments<T>& arguments, Stream stream) {
  if (plan.planar()) {
    const auto height = static_cast<int32_t>(sizes.H), width = static_cast<int32_t>(sizes.W);
    fused_block::launch_planar_in_projection<T>(plan.in, {arguments, height, width, plan.planes}, stream);
  } else {
    fused_block::launch_in_projection<T>(plan.in, arguments, stream);
  }
}

// Launches the pyramid, from `hidden` to `local`.
template <class T>
void launch_pyramid(const FusedBlockPlan& plan, const ForwardArguments<T>& arguments, const T* hidden, Stream stream) {
  if (!plan.planar()) return launch_forward<T>(plan.pyramid, arguments, stream);
  if constexpr (sizeof(T) == 2) {
    const LaunchPlan& launch = plan.pyramid[0];
    PlanarForwardArguments<T> planar{arguments, {}};
    planar.forward.problem.stages = launch.stages;
    planar.forward.problem.pairs = launch.pairs;
    for (int32_t s = 0; s < launch.stages.count; ++s) {
      const PlanarGrid& grid = plan.planes.of_factor(launch.stages.at[s].rows.factor);
      planar.inputs[s] = {hidden + grid.offset, grid.planes};
    }
    tensor_cores::launch_planar_forward<T>(launch, planar, stream);
  }
}

// Launches all of the fused block. `pyramid` is the problem in between, from `hidden` to `local`.
template <class T>
void launch_fused_block(const FusedBlockPlan& plan, const FusedBlockTensors<T>& tensors, const Problem<T>& pyramid,
                        Stream stream) {
  const Sizes& sizes = pyramid.sizes;
  const Stream after = stream.following();
  const auto dim = static_cast<int32_t>(plan.out.cols);
  float *sums = tensors.workspace, *shifts = sums + plan.sums;
  launch_in_projection<T>(
      plan, sizes, {projection_of(plan.in, sizes, tensors.x, tensors.in_weight, tensors.hidden), tensors.in_bias, sums},
      stream);
  fused_block::launch_shift<T>(
      plan.shift,
      {sizes.B, sizes.H * sizes.W, dim, plan.in.row_tiles, plan.shift_slices, plan.shift_output_tiles, sums,
       tensors.pool_weight, tensors.pool_bias, tensors.out_bias, shifts},
      after);
  launch_pyramid<T>(plan, {pyramid, {nullptr, 0, 0, 0}, tensors.local}, tensors.hidden, after);
  fused_block::launch_out_projection<T>(
      plan.out,
      {projection_of<T>(plan.out, sizes, tensors.local, tensors.out_weight, tensors.result), plan.shift_slices, shifts,
       tensors.residual},
      after);
}

}  // namespace deltaconv::cuda

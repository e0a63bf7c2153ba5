// The gradient of x. One launch writes the adjoint convolutions of the reduced stages to the workspace. The next one
// takes x's own grid: it sums the adjoint convolutions of the other stages and gathers, by the adjoint of pooling, what
// the first launch wrote. Nothing is added to one place from two CTAs.
#pragma once

#include "cuda/cuda_cores/convolve.h"
#include "cuda/cuda_cores/planes.h"
#include "cuda/frame/pool_adjoint.h"

namespace deltaconv::cuda::cuda_cores {

// Adds the adjoint convolution of a stage's grad_a to the register tiles of the CTA's tile.
template <int kKernel, class T>
DELTACONV_DEVICE void convolve_adjoint(const BackwardArguments<T>& arguments, const Stage& stage, const Tiling& tiling,
                                       const Tile& tile, float* shared, RegisterTile& sums) {
  const Problem<T>& problem = arguments.problem;
  const auto source =
      plane_source(arguments.workspace + arguments.grad_a[stage.index], problem.sizes, stage, tile.image, tile.channel);
  const auto filters = filter_source(problem.weight, problem.sizes, stage.index, tile.channel, kPairs, problem.vectors);
  convolve_tile<kKernel, true>(source, filters, tiling, tile.row, tile.col, shared, sums);
}

// This lane's channel, counted from the CTA's first, or -1 where the channel does not exist.
DELTACONV_DEVICE int64_t lane_channel(const Sizes& sizes, int32_t first_channel) {
  const int64_t half = sizes.C / 2;
  const int in_half = lane_index() % kPairs;
  return first_channel + in_half < half ? lane_index() / kPairs * half + in_half : -1;
}

template <class T, int kKernel>
struct PyramidBackwardPooledInput {
  static constexpr int kMaxThreads = cuda_cores::kMaxThreads, kMinBlocks = 2;

  static DELTACONV_DEVICE void run(const BackwardArguments<T>& arguments) {
    const Problem<T>& problem = arguments.problem;
    const Tile tile = locate_tile(problem.stages);
    if (!tile.exists) return;
    const Stage& stage = problem.stages.at[tile.stage];
    RegisterTile sums = {};
    convolve_adjoint<kKernel>(arguments, stage, stage.tiling, tile, reinterpret_cast<float*>(shared_memory()), sums);

    const int64_t channel = lane_channel(problem.sizes, tile.channel);
    if (channel < 0) return;
    const Plane plane = plane_of(arguments.workspace + arguments.grad_d[stage.index], problem.sizes, stage, tile);
    const WarpTile mine = warp_tile(stage.tiling);
    DELTACONV_UNROLL
    for (int i = 0; i < kTileH; ++i) {
      DELTACONV_UNROLL
      for (int n = 0; n < kTileW; ++n) {
        const int32_t row = tile.row + mine.row + i, col = tile.col + mine.col + n;
        if (row < stage.rows.reduced && col < stage.cols.reduced) plane.at(row, col)[channel] = sums[i][n];
      }
    }
  }
};

// Adds, to the 4 x 8 pixels from (row, col) on, what the adjoint of pooling takes from one reduced stage's grad_d.
DELTACONV_DEVICE void add_pool_adjoint(const Plane& plane, const Stage& stage, int32_t row, int32_t col,
                                       int64_t channel, RegisterTile& sums) {
  Windows down[kTileH];
  DELTACONV_UNROLL
  for (int i = 0; i < kTileH; ++i) {
    down[i] = row + i < stage.rows.size ? windows_of(stage.rows, row + i) : Windows{0, 0.0f, 0.0f};
  }
  DELTACONV_UNROLL
  for (int n = 0; n < kTileW; ++n) {
    if (col + n >= stage.cols.size) break;
    const Windows across = windows_of(stage.cols, col + n);
    DELTACONV_UNROLL
    for (int i = 0; i < kTileH; ++i) {
      if (row + i >= stage.rows.size) break;
      const auto along_row = [&](int32_t window) {
        const float* at = plane.at(window, across.last) + channel;
        float value = across.weight * at[0];
        if (across.weight_before != 0.0f) value += across.weight_before * *(at - plane.col_stride);
        return value;
      };
      sums[i][n] += down[i].weight * along_row(down[i].last);
      if (down[i].weight_before != 0.0f) sums[i][n] += down[i].weight_before * along_row(down[i].last - 1);
    }
  }
}

template <class T, int kKernel>
struct PyramidBackwardInput {
  static constexpr int kMaxThreads = cuda_cores::kMaxThreads, kMinBlocks = 2;

  static DELTACONV_DEVICE void run(const BackwardInputArguments<T>& all) {
    const BackwardArguments<T>& arguments = all.backward;
    const Problem<T>& problem = arguments.problem;
    const Sizes& sizes = problem.sizes;
    const Tile tile = locate_tile(all.tiles);
    if (!tile.exists) return;
    const Stage& whole = all.tiles.at[0];
    RegisterTile sums = {};
    bool in_use = false;  // other warps may still read shared memory
    for (int32_t s = 0; s < problem.stages.count; ++s) {
      const Stage& stage = problem.stages.at[s];
      if (stage.rows.factor != 1) continue;
      if (in_use) sync_block();
      in_use = true;
      convolve_adjoint<kKernel>(arguments, stage, whole.tiling, tile, reinterpret_cast<float*>(shared_memory()), sums);
    }
    const int64_t channel = lane_channel(sizes, tile.channel);
    if (channel < 0) return;
    const WarpTile mine = warp_tile(whole.tiling);
    const int32_t row = tile.row + mine.row, col = tile.col + mine.col;
    for (int32_t s = 0; s < problem.stages.count; ++s) {
      const Stage& stage = problem.stages.at[s];
      if (stage.rows.factor == 1) continue;
      const Plane plane = plane_of(arguments.workspace + arguments.grad_d[stage.index], sizes, stage, tile);
      add_pool_adjoint(plane, stage, row, col, channel, sums);
    }
    T* to = arguments.grad_x + ((tile.image * sizes.H + row) * sizes.W + col) * sizes.C + tile.channel + channel;
    DELTACONV_UNROLL
    for (int i = 0; i < kTileH; ++i) {
      DELTACONV_UNROLL
      for (int n = 0; n < kTileW; ++n) {
        if (row + i < sizes.H && col + n < sizes.W) to[(i * sizes.W + n) * sizes.C] = from_float<T>(sums[i][n]);
      }
    }
  }
};

}  // namespace deltaconv::cuda::cuda_cores

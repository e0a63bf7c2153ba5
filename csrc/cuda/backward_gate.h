// The gradient of every stage's convolution: recomputes it, brings the result's gradient to the stage's grid,
// through the gate. Writes both halves of the channels to the workspace.
#pragma once

#include "cuda/backward.h"
#include "cuda/forward.h"

namespace deltaconv::cuda {

// The stage's slice of one image's gradient, at the block's first channel.
template <class T>
struct GradientSlice {
  const T* data;
  int64_t row_stride, col_stride;
  int32_t channels;  // of the block's pairs, those that exist
};

template <class T>
DELTACONV_DEVICE GradientSlice<T> gradient_slice(const BackwardArguments<T>& arguments, const Tile& tile) {
  const int64_t half = arguments.problem.sizes.C / 2;
  const int64_t slice = arguments.problem.stages.at[tile.stage].index * half + tile.channel;
  const Image<const T>& grad = arguments.grad;
  return {grad.data + tile.image * grad.batch_stride + slice, grad.row_stride, grad.col_stride,
          static_cast<int32_t>(half - tile.channel < kPairs ? half - tile.channel : kPairs)};
}

// Walks along kRows rows of pixels, whose weighted sum belongs to one row of the grid, and adds each pixel's
// gradient to the two grid columns that it was interpolated from: `to` is [cols][kPairs] from grid column
// `col` on.
template <int kRows, class T>
DELTACONV_DEVICE void add_upsample_adjoint(const T* const (&rows)[kRows], const float (&weights)[kRows],
                                           int64_t col_stride, const Axis& axis, int32_t col, int32_t cols,
                                           float* to) {
  const auto flush = [&](int32_t cell, float value) {
    const int32_t at = clamp(cell, 0, axis.reduced - 1) - col;
    if (0 <= at && at < cols) to[at * kPairs] += value;
  };
  const int32_t begin = axis.cell_start(col - 1), end = axis.cell_start(col + cols);
  UpsampleWalk across(axis, begin);
  int32_t cell = across.cell();
  float left = 0.0f, right = 0.0f;
  for (int32_t x = begin; x < end; ++x, across.advance()) {
    float value = 0.0f;
    DELTACONV_UNROLL
    for (int j = 0; j < kRows; ++j) {
      if (rows[j]) value += weights[j] * to_float(rows[j][x * col_stride]);
    }
    if (across.cell() != cell) {
      flush(cell, left);
      cell = across.cell();
      left = right;
      right = 0.0f;
    }
    left += (1.0f - across.fraction()) * value;
    right += across.fraction() * value;
  }
  flush(cell, left);
  flush(cell + 1, right);
}

// The gradient of the stage's grid into shared [rows][cols][kPairs]: the adjoint of bilinear upsampling, as a
// gather. Half a warp takes a row of the grid; its lanes are the channels.
template <class T>
DELTACONV_DEVICE void gather_upsample_adjoint(const GradientSlice<T>& grad, const Stage& stage,
                                              const Tile& tile, float* shared) {
  constexpr int kRows = 4;  // of pixels at a time, so that their reads overlap
  const Tiling& tiling = stage.tiling;
  const int channel = thread_index() % kPairs;
  for (int32_t r = thread_index() / kPairs; r < tiling.rows; r += thread_count() / kPairs) {
    float* to = shared + r * tiling.cols * kPairs + channel;
    for (int32_t c = 0; c < tiling.cols; ++c) to[c * kPairs] = 0.0f;
    const int32_t row = tile.row + r;
    if (row >= stage.rows.reduced || channel >= grad.channels) continue;
    const int32_t begin = stage.rows.cell_start(row - 1), end = stage.rows.cell_start(row + 1);
    UpsampleWalk down(stage.rows, begin);
    for (int32_t y = begin; y < end; y += kRows) {
      const T* rows[kRows];
      float weights[kRows];
      DELTACONV_UNROLL
      for (int j = 0; j < kRows; ++j, down.advance()) {
        const int32_t above = clamp(down.cell(), 0, stage.rows.reduced - 1);
        const int32_t below = clamp(down.cell() + 1, 0, stage.rows.reduced - 1);
        weights[j] = (above == row ? 1.0f - down.fraction() : 0.0f) + (below == row ? down.fraction() : 0.0f);
        rows[j] = y + j < end ? grad.data + (y + j) * grad.row_stride + channel : nullptr;
      }
      add_upsample_adjoint(rows, weights, grad.col_stride, stage.cols, tile.col, tiling.cols, to);
    }
  }
}

template <class T, int kKernel>
struct PyramidBackwardGate {
  static constexpr int kMaxThreads = cuda::kMaxThreads, kMinBlocks = 2;

  static DELTACONV_DEVICE void run(const BackwardArguments<T>& arguments) {
    const Problem<T>& problem = arguments.problem;
    const Tile tile = locate_tile(problem.stages);
    if (!tile.exists) return;
    const Stage& stage = problem.stages.at[tile.stage];
    float* shared = reinterpret_cast<float*>(shared_memory());
    RegisterTile sums;
    convolve_stage<kKernel>(problem, tile, shared, sums);
    const Pairs pairs = exchange_halves(sums);

    const GradientSlice<T> grad = gradient_slice(arguments, tile);
    const bool reduced = stage.rows.factor != 1;
    if (reduced) {
      sync_block();
      gather_upsample_adjoint(grad, stage, tile, shared);
      sync_block();
    }
    const WarpTile mine = warp_tile(stage.tiling);
    const int32_t first_row = mine.row + first_pair_row();
    const int channel = lane_index() % kPairs;
    if (channel >= grad.channels) return;
    const Plane plane =
        plane_of(arguments.workspace + arguments.grad_a[stage.index], problem.sizes, stage, tile);
    const int64_t half = problem.sizes.C / 2;
    DELTACONV_UNROLL
    for (int i = 0; i < kTileH / 2; ++i) {
      DELTACONV_UNROLL
      for (int n = 0; n < kTileW; ++n) {
        const int32_t in_row = first_row + i, in_col = mine.col + n;
        const int32_t row = tile.row + in_row, col = tile.col + in_col;
        if (row >= stage.rows.reduced || col >= stage.cols.reduced) continue;
        const float of_gated =
            reduced ? shared[(in_row * stage.tiling.cols + in_col) * kPairs + channel]
                    : to_float(grad.data[row * grad.row_stride + col * grad.col_stride + channel]);
        const GateGradient of =
            gate_gradient(problem.gate, problem.gate_scale, of_gated, pairs.u[i][n], pairs.v[i][n]);
        float* to = plane.at(row, col) + channel;
        to[0] = of.u;
        to[half] = of.v;
      }
    }
  }
};

}  // namespace deltaconv::cuda

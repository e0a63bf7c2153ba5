// The convolution on CUDA cores. A lane is a channel; a thread has a register tile of its channel's results.
//
// A thread reads a row of kTileW + K - 1 inputs from shared memory once and uses it for every kernel row that the row
// meets in the tile; it uses a weight for kTileW results. That is 0.16 to 0.23 shared reads for each fused
// multiply-add, where a multiprocessor can do 0.25.
#pragma once

#include "cuda/cuda_cores/load.h"

namespace deltaconv::cuda::cuda_cores {

inline constexpr int kColumnStep = 4;  // kernel columns at a time where K is not a compile-time constant

using RegisterTile = float[kTileH][kTileW];

// Adds one input row, from kernel column `first` on, times kColumns columns of the kernel rows that it meets. Row
// `in_row` of the tile's window meets kernel row in_row - i for row i of the tile.
//
//   K = 3, register tile of 4 rows; input row 2 meets
//   tile row       0   1   2   3
//   kernel row     2   1   0   -
template <int kColumns, bool kFlip>
DELTACONV_DEVICE void add_columns(const float* inputs, const float* weights, int32_t in_row, int32_t first, int32_t K,
                                  int32_t first_weight_row, RegisterTile& sums) {
  float input[kTileW + kColumns - 1];
  DELTACONV_UNROLL
  for (int n = 0; n < kTileW + kColumns - 1; ++n) input[n] = inputs[(first + n) * kLanes];
  DELTACONV_UNROLL
  for (int i = 0; i < kTileH; ++i) {
    const int32_t kernel_row = in_row - i;
    if (kernel_row < 0 || kernel_row >= K) continue;
    const int32_t stored_row = kFlip ? K - 1 - kernel_row : kernel_row;
    const float* taps = weights + (stored_row - first_weight_row) * K * kLanes;
    DELTACONV_UNROLL
    for (int k = 0; k < kColumns; ++k) {
      const float weight = taps[(kFlip ? K - 1 - first - k : first + k) * kLanes];
      DELTACONV_UNROLL
      for (int n = 0; n < kTileW; ++n) sums[i][n] = fused_multiply_add(input[n + k], weight, sums[i][n]);
    }
  }
}

// Adds one input row times all kernel columns. kKernel is K, or 0 where K is known at run time only.
template <int kKernel, bool kFlip>
DELTACONV_DEVICE void add_row(const float* inputs, const float* weights, int32_t in_row, int32_t K,
                              int32_t first_weight_row, RegisterTile& sums) {
  if constexpr (kKernel != 0) {
    add_columns<kKernel, kFlip>(inputs, weights, in_row, 0, kKernel, first_weight_row, sums);
  } else {
    int32_t first = 0;
    for (; first + kColumnStep <= K; first += kColumnStep) {
      add_columns<kColumnStep, kFlip>(inputs, weights, in_row, first, K, first_weight_row, sums);
    }
    for (; first < K; ++first) add_columns<1, kFlip>(inputs, weights, in_row, first, K, first_weight_row, sums);
  }
}

// Where a warp's register tiles begin in the CTA's tile.
struct WarpTile {
  int32_t row, col;
};

DELTACONV_DEVICE WarpTile warp_tile(const Tiling& tiling) {
  const int32_t across = tiling.cols / kTileW;
  return {warp_index() / across * kTileH, warp_index() % across * kTileW};
}

// Adds the correlation of `source` with `filters`, at the CTA's tile from (row, col) on, to the threads' register
// tiles. kFlip mirrors the filters, which makes the correlation its adjoint. Shared memory holds tiling.band_rows input
// rows at a time and the kernel rows that they meet. When a thread returns, other warps still read it.
template <int kKernel, bool kFlip, class T, class W>
DELTACONV_DEVICE void convolve_tile(const Source<T>& source, const Source<W>& filters, const Tiling& tiling,
                                    int32_t row, int32_t col, float* shared, RegisterTile& sums) {
  const int32_t band_rows = tiling.band_rows;
  const int32_t K = kKernel != 0 ? kKernel : filters.rows.size;
  const int32_t cols = tiling.cols + K - 1, all_rows = tiling.rows + K - 1;
  float* weights = shared + band_rows * cols * kLanes;
  const WarpTile mine = warp_tile(tiling);
  const bool needed = row + mine.row < source.rows.reduced && col + mine.col < source.cols.reduced;
  for (int32_t band = 0; band < all_rows; band += band_rows) {
    const int32_t rows = band + band_rows < all_rows ? band_rows : all_rows - band;
    if (band > 0) sync_block();
    const KernelRows taps = kernel_rows(band, rows, tiling.rows, K);
    const int32_t first_weight_row = kFlip ? K - 1 - taps.last : taps.first;
    load_rows(filters, first_weight_row, 0, taps.last - taps.first + 1, K, weights);
    load_rows(source, row - K / 2 + band, col - K / 2, rows, cols, shared);
    finish_loads();
    sync_block();
    const int32_t begin = mine.row > band ? mine.row - band : 0;
    const int32_t end = mine.row + kTileH + K - 1 - band < rows ? mine.row + kTileH + K - 1 - band : rows;
    for (int32_t r = begin; r < end && needed; ++r) {
      const float* inputs = shared + (r * cols + mine.col) * kLanes + lane_index();
      add_row<kKernel, kFlip>(inputs, weights + lane_index(), band + r - mine.row, K, first_weight_row, sums);
    }
  }
}

}  // namespace deltaconv::cuda::cuda_cores

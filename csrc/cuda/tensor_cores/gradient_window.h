// What a flipped convolution reads, on its way to shared memory: a window of a plane of gradients, brought to one
// scale, and the flipped filters.
#pragma once

#include "cuda/frame/load.h"
#include "cuda/frame/tile.h"
#include "cuda/layout/adjoint_tile.h"
#include "cuda/layout/backward_workspace.h"
#include "cuda/tensor_cores/plane_window.h"

namespace deltaconv::cuda::tensor_cores {

// Loads the filters of the CTA's channels, turned by 180 degrees, as the overlapping pairs of taps of banded_tile.h.
// Half a warp takes a kernel row; its lanes are channels.
template <class T, class Banded>
DELTACONV_DEVICE void load_flipped_filters(const T* weight, int64_t stride, int32_t channels, int K, uint32_t* shared) {
  constexpr int kTaps = 8;
  const int channel = lane_index() % kAdjointChannels;
  uint32_t* to = shared + banded_slot(channel) * Banded::filter_words(K);
  for (int row = thread_index() / kAdjointChannels; row < K; row += thread_count() / kAdjointChannels) {
    const T* last = weight + int64_t{(K - 1 - row) * K + K - 1} * stride + channel;
    uint32_t before = 0;
    for (int first = 0; first <= K; first += kTaps) {
      uint32_t taps[kTaps];
      DELTACONV_UNROLL
      for (int k = 0; k < kTaps; ++k) {
        taps[k] = channel < channels && first + k < K ? (last - (first + k) * stride)->bits : 0;
      }
      DELTACONV_UNROLL
      for (int k = 0; k < kTaps; ++k) {
        if (first + k <= K) to[row * (K + 1) + first + k] = before | taps[k] << 16;
        before = taps[k];
      }
    }
  }
}

// The cells of scales that a tile's window meets, at most 4 x 4. A lane looks after one of them.
struct WindowCells {
  int32_t top, left, rows, cols;

  template <class Banded>
  DELTACONV_DEVICE static WindowCells around(const GradientGrid& grid, const Tile& tile, int K) {
    static_assert((Banded::kRows + kLargestKernel / 2 - 1) / kCell + 2 <= 4 &&
                  (Banded::kCols + kLargestKernel / 2 - 1) / kCell + 2 <= 4);
    const auto first = [&](int32_t at) { return at < K / 2 ? 0 : (at - K / 2) / kCell; };
    const auto count = [&](int32_t begin, int32_t end, int32_t size) {
      return ((end < size ? end : size) - 1) / kCell - begin + 1;
    };
    const int32_t top = first(tile.row), left = first(tile.col);
    return {top, left, count(top, tile.row + Banded::kRows + K / 2, grid.rows),
            count(left, tile.col + Banded::kCols + K / 2, grid.cols)};
  }
  DELTACONV_DEVICE int count() const { return rows * cols; }
  DELTACONV_DEVICE int32_t row(int cell) const { return (top + cell / cols) * kCell; }
  DELTACONV_DEVICE int32_t col(int cell) const { return (left + cell % cols) * kCell; }
};

// Brings a window in shared memory to one scale, the largest of its cells' scales, and returns that scale; one
// warp does it.
template <class T, class Banded>
DELTACONV_DEVICE float share_scale(const float* scales, const GradientGrid& grid, const Tile& tile, int K, T* shared) {
  const WindowCells cells = WindowCells::around<Banded>(grid, tile, K);
  const int mine = lane_index() < cells.count() ? lane_index() : 0;
  const float scale = scales[cells.row(mine) / kCell * int64_t{grid.cell_cols} + cells.col(mine) / kCell];
  const float largest = warp_max(scale);
  DELTACONV_NO_UNROLL
  for (int cell = 0; cell < cells.count(); ++cell) {
    const float factor = shuffle(scale, cell) / largest;
    if (factor == 1.0f) continue;
    const int32_t col = cells.col(cell) + lane_index() % kCell - tile.col + K / 2;  // column of the window
    for (int32_t r = lane_index() / kCell; r < kCell; r += kWarp / kCell) {
      const int32_t row = cells.row(cell) + r - tile.row + K / 2;
      if (row < 0 || row >= Banded::plane_rows(K) || col < 0 || col >= Banded::kCols + K - 1) continue;
      T& value = shared[Banded::stored_row(row, K) * Banded::kPitch + col];
      value = from_float<T>(to_float(value) * factor);
    }
  }
  sync_warp();
  return largest;
}

}  // namespace deltaconv::cuda::tensor_cores

// Writes the results of a tile to global memory: upsampled from shared memory where the stage is reduced, plus the
// residual, into the stage's slice of the result.
#pragma once

#include "cuda/frame/load.h"
#include "cuda/frame/tile.h"

namespace deltaconv::cuda {

// The stage's slice of one image's result, at the CTA's first channel.
template <class T>
struct Sink {
  static constexpr int kVector = kQuadValues<T>;  // channels in 16 bytes

  T* result;
  const T* residual;  // null without one
  int64_t result_row_stride, result_col_stride, residual_row_stride, residual_col_stride;
  int32_t channels;  // those of the CTA's pairs that exist
  bool vectors;      // groups of kVector channels are 16-byte aligned and exist as a whole or not at all

  DELTACONV_DEVICE float residual_at(int32_t y, int32_t x, int32_t channel) const {
    if (!residual) return 0.0f;
    return to_float(residual[y * residual_row_stride + x * residual_col_stride + channel]);
  }
  // kVector channels of the residual, where there are vectors; a thread reads them well before it needs them.
  DELTACONV_DEVICE Quad residuals_at(int32_t y, int32_t x, int32_t channel) const {
    if (!residual || !vectors) return {};
    return load16_constant(residual + y * residual_row_stride + x * residual_col_stride + channel);
  }

  DELTACONV_DEVICE void store(int32_t y, int32_t x, int32_t channel, float value) const {
    result[y * result_row_stride + x * result_col_stride + channel] = from_float<T>(value);
  }
  // Stores values plus residuals to channels `channel` to channel + kVector - 1, of which at least the first exists.
  DELTACONV_DEVICE void store(int32_t y, int32_t x, int32_t channel, float (&values)[kVector],
                              const Quad& residuals) const {
    if (!vectors) {
      DELTACONV_UNROLL
      for (int e = 0; e < kVector; ++e) {
        if (channel + e < channels) store(y, x, channel + e, values[e] + residual_at(y, x, channel + e));
      }
      return;
    }
    if (residual) {
      float add[kVector];
      unpack<T>(residuals, add);
      DELTACONV_UNROLL
      for (int e = 0; e < kVector; ++e) values[e] += add[e];
    }
    store16(result + y * result_row_stride + x * result_col_stride + channel, pack<T>(values));
  }
};

template <class T>
DELTACONV_DEVICE Sink<T> sink_of(const ForwardArguments<T>& arguments, const Tile& tile, int32_t pairs) {
  const Sizes& sizes = arguments.problem.sizes;
  const int64_t half = sizes.C / 2, width = sizes.S * half;
  const int64_t slice = arguments.problem.stages.at[tile.stage].index * half + tile.channel;
  const Image<const T>& residual = arguments.residual;
  return {arguments.result + tile.image * sizes.H * sizes.W * width + slice,
          residual.data ? residual.data + tile.image * residual.batch_stride + slice : nullptr,
          sizes.W * width,
          width,
          residual.row_stride,
          residual.col_stride,
          static_cast<int32_t>(half - tile.channel < pairs ? half - tile.channel : pairs),
          arguments.problem.vectors};
}

struct Rectangle {
  int32_t top, bottom, left, right;  // [top, bottom) x [left, right)
};

// The pixels that a tile's upsampled results cover: those of the cells that the tile owns.
DELTACONV_DEVICE Rectangle owned_pixels(const Stage& stage, const Tile& tile) {
  const Tiling& tiling = stage.tiling;
  const bool last_row = tile.index_row + 1 == tiling.count_rows, last_col = tile.index_col + 1 == tiling.count_cols;
  return {tile.index_row == 0 ? 0 : stage.rows.cell_start(tile.row),
          last_row ? stage.rows.size : stage.rows.cell_start(tile.row + tiling.step_rows),
          tile.index_col == 0 ? 0 : stage.cols.cell_start(tile.col),
          last_col ? stage.cols.size : stage.cols.cell_start(tile.col + tiling.step_cols)};
}

DELTACONV_DEVICE int32_t clamp(int32_t value, int32_t low, int32_t high) {
  return value < low ? low : value > high ? high : value;
}

// The functions below get results from gated(row, col, channel, values), which reads kVector channels of one result of
// the tile. Neighbouring threads take neighbouring vectors of one pixel, then neighbouring pixels of a row, so that a
// warp writes whole sectors of device memory.

// Calls visit(i, true) for every item i to load, so that the loads of all items are in flight together, then visit(i,
// false) for every item to store.
template <int kCount, class Visit>
DELTACONV_DEVICE void load_then_store(const Visit& visit) {
  DELTACONV_UNROLL
  for (int i = 0; i < 2 * kCount; ++i) visit(i % kCount, i < kCount);
}

// Stores the tile of a stage at full resolution.
template <int kRows, int kCols, int kPairs, class T, class Gated>
DELTACONV_DEVICE void store_tile(const Sink<T>& sink, const Stage& stage, const Tile& tile, const Gated& gated) {
  constexpr int kVector = Sink<T>::kVector, kVectors = kPairs / kVector, kTogether = 4;
  constexpr int kItems = kRows * kCols * kVectors;
  const int32_t rows = stage.rows.reduced - tile.row, cols = stage.cols.reduced - tile.col;
  for (int first = thread_index(); first < kItems; first += kTogether * thread_count()) {
    Quad residuals[kTogether];
    load_then_store<kTogether>([&](int j, bool loading) {
      const int i = first + j * thread_count();
      const int32_t channel = i % kVectors * kVector, col = i / kVectors % kCols, row = i / kVectors / kCols;
      if (i >= kItems || row >= rows || col >= cols || channel >= sink.channels) return;
      if (loading) {
        residuals[j] = sink.residuals_at(tile.row + row, tile.col + col, channel);
      } else {
        float values[kVector];
        gated(row, col, channel, values);
        sink.store(tile.row + row, tile.col + col, channel, values, residuals[j]);
      }
    });
  }
}

// Stores one column of pixels, kVector channels of each. Two rows of the grid, interpolated along the columns,
// stay in registers.
template <class T, class Gated>
DELTACONV_DEVICE void store_upsampled_column(const Sink<T>& sink, const Stage& stage, const Tile& tile, int32_t x,
                                             Span rows, int32_t channel, const Gated& gated) {
  constexpr int kVector = Sink<T>::kVector, kTogether = 4;
  const UpsampleWalk across(stage.cols, x);
  const int32_t left = clamp(across.cell(), 0, stage.cols.reduced - 1) - tile.col;
  const int32_t right = clamp(across.cell() + 1, 0, stage.cols.reduced - 1) - tile.col;
  const auto load_row = [&](int32_t row, float (&values)[kVector]) {
    float others[kVector];
    row = clamp(row, 0, stage.rows.reduced - 1) - tile.row;
    gated(row, left, channel, values);
    gated(row, right, channel, others);
    DELTACONV_UNROLL
    for (int e = 0; e < kVector; ++e) values[e] += across.fraction() * (others[e] - values[e]);
  };
  UpsampleWalk down(stage.rows, rows.begin);
  int32_t cell = down.cell();
  float above[kVector], below[kVector], values[kVector];
  load_row(cell, above);
  load_row(cell + 1, below);
  for (int32_t first = rows.begin; first < rows.end; first += kTogether) {
    Quad residuals[kTogether];
    load_then_store<kTogether>([&](int j, bool loading) {
      const int32_t y = first + j;
      if (y >= rows.end) return;
      if (loading) {
        residuals[j] = sink.residuals_at(y, x, channel);
        return;
      }
      if (down.cell() != cell) {
        cell = down.cell();
        DELTACONV_UNROLL
        for (int e = 0; e < kVector; ++e) above[e] = below[e];
        load_row(cell + 1, below);
      }
      DELTACONV_UNROLL
      for (int e = 0; e < kVector; ++e) values[e] = above[e] + down.fraction() * (below[e] - above[e]);
      sink.store(y, x, channel, values, residuals[j]);
      down.advance();
    });
  }
}

// Stores the pixels of the cells that a tile of a reduced stage owns.
template <int kPairs, class T, class Gated>
DELTACONV_DEVICE void store_upsampled(const Sink<T>& sink, const Stage& stage, const Tile& tile, const Gated& gated) {
  const Rectangle pixels = owned_pixels(stage, tile);
  const int32_t rows = pixels.bottom - pixels.top, cols = pixels.right - pixels.left;
  constexpr int kVectors = kPairs / Sink<T>::kVector;
  const int32_t columns = cols * kVectors;
  if (columns == 0) return;
  // Where there are fewer columns than threads, columns are cut into runs of rows.
  const int32_t runs = clamp(thread_count() / columns, 1, rows);
  for (int32_t i = thread_index(); i < columns * runs; i += thread_count()) {
    const int32_t channel = i % kVectors * Sink<T>::kVector, x = pixels.left + i / kVectors % cols;
    const Span run = share(rows, i / columns, runs);
    if (channel >= sink.channels || run.begin == run.end) continue;
    store_upsampled_column(sink, stage, tile, x, Span{pixels.top + run.begin, pixels.top + run.end}, channel, gated);
  }
}

}  // namespace deltaconv::cuda

// Writes the results of a tile to global memory: upsampled from shared memory where the stage is reduced, plus the
// residual, into the stage's slice of the result.
#pragma once

#include "cuda/frame/load.h"
#include "cuda/frame/tile.h"

namespace deltaconv::cuda {

// Where a channel of a pixel lies in the result and in the residual, in elements.
struct SinkPlace {
  int64_t result, residual;
};

// The stage's slice of one image's result, at the CTA's first channel.
template <class T>
struct Sink {
  static constexpr int kVector = kQuadValues<T>;  // channels in 16 bytes

  T* result;
  const T* residual;  // null without one
  int64_t result_row_stride, result_col_stride, residual_row_stride, residual_col_stride;
  int32_t channels;  // those of the CTA's pairs that exist
  bool vectors;      // groups of kVector channels are 16-byte aligned and exist as a whole or not at all

  // Offsets of a channel of a pixel. Threads that walk over pixels add strides to them.
  DELTACONV_DEVICE SinkPlace place(int32_t y, int32_t x, int32_t channel) const {
    return {y * result_row_stride + x * result_col_stride + channel,
            y * residual_row_stride + x * residual_col_stride + channel};
  }
  DELTACONV_DEVICE void next_row(SinkPlace& at) const {
    at.result += result_row_stride;
    at.residual += residual_row_stride;
  }
  DELTACONV_DEVICE void next_col(SinkPlace& at) const {
    at.result += result_col_stride;
    at.residual += residual_col_stride;
  }

  DELTACONV_DEVICE float residual_at(int32_t y, int32_t x, int32_t channel) const {
    if (!residual) return 0.0f;
    return to_float(residual[place(y, x, channel).residual]);
  }
  // Whether a thread reads the residual kVector channels at a time, well before it needs them.
  DELTACONV_DEVICE bool has_residual_vectors() const { return residual && vectors; }
  DELTACONV_DEVICE Quad residuals_at(const SinkPlace& at) const { return load16_constant(residual + at.residual); }

  DELTACONV_DEVICE void store(int32_t y, int32_t x, int32_t channel, float value) const {
    result[place(y, x, channel).result] = from_float<T>(value);
  }
  // Stores values plus residuals to channels `channel` to channel + kVector - 1, of which at least the first exists and
  // lies at `at`.
  DELTACONV_DEVICE void store(const SinkPlace& at, int32_t channel, float (&values)[kVector],
                              const Quad& residuals) const {
    if (!vectors) {
      DELTACONV_UNROLL
      for (int e = 0; e < kVector; ++e) {
        if (channel + e >= channels) break;
        const float add = residual ? to_float(residual[at.residual + e]) : 0.0f;
        result[at.result + e] = from_float<T>(values[e] + add);
      }
      return;
    }
    if (residual) {
      float add[kVector];
      unpack<T>(residuals, add);
      DELTACONV_UNROLL
      for (int e = 0; e < kVector; ++e) values[e] += add[e];
    }
    store16_global(result + at.result, pack<T>(values));
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

// The functions below get results from gated(row, col, channel, values), which reads kVector channels. Neighbouring
// threads take neighbouring vectors of one pixel, so that a warp writes whole sectors of device memory.

// Stores the tile of a stage at full resolution. gated(row, col, channel, values) reads 4 neighbouring results of each
// of kVector channels.
template <int kRows, int kCols, int kPairs, class T, class Gated>
DELTACONV_DEVICE void store_tile(const Sink<T>& sink, const Stage& stage, const Tile& tile, const Gated& gated) {
  constexpr int kVector = Sink<T>::kVector, kVectors = kPairs / kVector, kAcross = kCols / 4;
  const int32_t rows = stage.rows.reduced - tile.row, cols = stage.cols.reduced - tile.col;
  DELTACONV_NO_UNROLL
  for (int i = thread_index(); i < kRows * kAcross * kVectors; i += thread_count()) {
    const auto item = static_cast<uint32_t>(i);
    const int32_t channel = item % kVectors * kVector, col = item / kVectors % kAcross * 4;
    const int32_t row = item / kVectors / kAcross;
    if (row >= rows || col >= cols || channel >= sink.channels) continue;
    const SinkPlace first = sink.place(tile.row + row, tile.col + col, channel);
    Quad residuals[4] = {};
    SinkPlace at = first;
    if (sink.has_residual_vectors()) {
      DELTACONV_UNROLL
      for (int n = 0; n < 4; ++n, sink.next_col(at)) {
        if (col + n < cols) residuals[n] = sink.residuals_at(at);
      }
    }
    FloatQuad results[kVector];
    gated(row, col, channel, results);
    at = first;
    DELTACONV_UNROLL
    for (int n = 0; n < 4; ++n, sink.next_col(at)) {
      if (col + n >= cols) continue;
      float values[kVector];
      DELTACONV_UNROLL
      for (int e = 0; e < kVector; ++e) values[e] = results[e].values[n];
      sink.store(at, channel, values, residuals[n]);
    }
  }
}

// Stores one column of pixels, kVector channels of each, which gated() reads for one result of the tile. Two rows of
// the grid, interpolated along the columns, stay in registers, and the step between them.
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
  float above[kVector], below[kVector], step[kVector];
  const auto load_below = [&] {
    load_row(cell + 1, below);
    DELTACONV_UNROLL
    for (int e = 0; e < kVector; ++e) step[e] = below[e] - above[e];
  };
  load_row(cell, above);
  load_below();
  SinkPlace at = sink.place(rows.begin, x, channel);
  DELTACONV_NO_UNROLL
  for (int32_t first = rows.begin; first < rows.end; first += kTogether) {
    Quad residuals[kTogether] = {};
    if (sink.has_residual_vectors()) {
      SinkPlace ahead = at;
      DELTACONV_UNROLL
      for (int j = 0; j < kTogether; ++j, sink.next_row(ahead)) {
        if (first + j < rows.end) residuals[j] = sink.residuals_at(ahead);
      }
    }
    DELTACONV_UNROLL
    for (int j = 0; j < kTogether; ++j, sink.next_row(at), down.advance()) {
      if (first + j >= rows.end) break;
      if (down.cell() != cell) {
        cell = down.cell();
        DELTACONV_UNROLL
        for (int e = 0; e < kVector; ++e) above[e] = below[e];
        load_below();
      }
      float values[kVector];
      DELTACONV_UNROLL
      for (int e = 0; e < kVector; ++e) values[e] = above[e] + down.fraction() * step[e];
      sink.store(at, channel, values, residuals[j]);
    }
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

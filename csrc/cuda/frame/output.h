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
  // Whether the residual is read kVector channels at a time.
  DELTACONV_DEVICE bool has_residual_vectors() const { return residual && vectors; }
  DELTACONV_DEVICE Quad residuals_at(const SinkPlace& at) const { return load16_constant(residual + at.residual); }

  DELTACONV_DEVICE void store(int32_t y, int32_t x, int32_t channel, float value) const {
    result[place(y, x, channel).result] = from_float<T>(value);
  }
  static DELTACONV_DEVICE void add_residuals(const Quad& residuals, float (&values)[kVector]) {
    float add[kVector];
    unpack<T>(residuals, add);
    DELTACONV_UNROLL
    for (int e = 0; e < kVector; ++e) values[e] += add[e];
  }
  // Stores values to channels `channel` to channel + kVector - 1, of which at least the first exists and lies at `at`.
  // Without has_residual_vectors(), it adds the residual.
  DELTACONV_DEVICE void store(const SinkPlace& at, int32_t channel, const float (&values)[kVector]) const {
    if (!vectors) return store_scalars(at, channel, values);
    store16_global(result + at.result, pack<T>(values));
  }

 private:
  DELTACONV_DEVICE void store_scalars(const SinkPlace& at, int32_t channel, const float (&values)[kVector]) const {
    DELTACONV_UNROLL
    for (int e = 0; e < kVector; ++e) {
      if (channel + e >= channels) break;
      const float add = residual ? to_float(residual[at.residual + e]) : 0.0f;
      result[at.result + e] = from_float<T>(values[e] + add);
    }
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

// The upsampling cells that a tile owns along an axis, of which it is number `index` of `count` and begins at `first`.
DELTACONV_DEVICE Span owned_cells(const Axis& axis, int32_t index, int32_t count, int32_t first, int32_t step) {
  return {index == 0 ? -1 : first, index + 1 == count ? axis.reduced : first + step};
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
    FloatQuad results[kVector];
    const auto values_of = [&](int n, float (&values)[kVector]) {
      DELTACONV_UNROLL
      for (int e = 0; e < kVector; ++e) values[e] = results[e].values[n];
    };
    SinkPlace at = sink.place(tile.row + row, tile.col + col, channel);
    if (sink.has_residual_vectors()) {
      Quad residuals[4];
      SinkPlace ahead = at;
      DELTACONV_UNROLL
      for (int n = 0; n < 4; ++n, sink.next_col(ahead)) {
        if (col + n < cols) residuals[n] = sink.residuals_at(ahead);
      }
      gated(row, col, channel, results);
      DELTACONV_UNROLL
      for (int n = 0; n < 4; ++n, sink.next_col(at)) {
        if (col + n >= cols) break;
        float values[kVector];
        values_of(n, values);
        sink.add_residuals(residuals[n], values);
        sink.store(at, channel, values);
      }
    } else {
      gated(row, col, channel, results);
      DELTACONV_UNROLL
      for (int n = 0; n < 4; ++n, sink.next_col(at)) {
        if (col + n >= cols) break;
        float values[kVector];
        values_of(n, values);
        sink.store(at, channel, values);
      }
    }
  }
}

// Two neighbouring columns of pixels of one upsampling cell, kVector channels of each, of which gated() reads one
// result of the tile. Both are interpolated from the same two columns of the grid. Two rows of the grid, interpolated
// along the columns, stay in registers.
template <class T, class Gated>
class UpsampledColumns {
 public:
  // Pixel columns x and, with `both`, x + 1.
  DELTACONV_DEVICE UpsampledColumns(const Sink<T>& sink, const Stage& stage, const Tile& tile, int32_t x, bool both,
                                    int32_t channel, const Gated& gated)
      : sink_(sink), stage_(stage), tile_(tile), gated_(gated), x_(x), channel_(channel), both_(both) {
    UpsampleWalk across(stage.cols, x);
    left_ = clamp(across.cell(), 0, stage.cols.reduced - 1) - tile.col;
    right_ = clamp(across.cell() + 1, 0, stage.cols.reduced - 1) - tile.col;
    fractions_[0] = across.fraction();
    across.advance();
    fractions_[1] = across.fraction();
  }

  // Stores the pixels of rows of cells. The rows of the grid above and below a cell change places from cell to cell.
  DELTACONV_DEVICE void store(Span cells) const {
    const int32_t top = stage_.rows.cell_start(cells.begin);
    Walk walk{sink_.place(top, x_, channel_), UpsampleWalk(stage_.rows, top), stage_.rows.cell_start(cells.end) - top};
    Row even, odd;
    load_row(cells.begin, even);
    DELTACONV_NO_UNROLL
    for (int32_t cell = cells.begin; cell < cells.end; ++cell) {
      load_row(cell + 1, odd);
      store_cell(cell, even, odd, walk);
      if (++cell == cells.end) break;
      load_row(cell + 1, even);
      store_cell(cell, odd, even, walk);
    }
  }

 private:
  // Rows of pixels together; float32 has no registers for two of them on sm_80.
  static constexpr int kVector = Sink<T>::kVector, kTogether = sizeof(T) == 4 ? 1 : 2;
  using Row = float[2][kVector];
  struct Walk {
    SinkPlace at;
    UpsampleWalk down;
    int32_t rows;  // to be stored yet
  };

  DELTACONV_DEVICE void load_row(int32_t row, Row& interpolated) const {
    float values[kVector], others[kVector];
    row = clamp(row, 0, stage_.rows.reduced - 1) - tile_.row;
    gated_(row, left_, channel_, values);
    gated_(row, right_, channel_, others);
    DELTACONV_UNROLL
    for (int e = 0; e < kVector; ++e) {
      const float step = others[e] - values[e];
      DELTACONV_UNROLL
      for (int j = 0; j < 2; ++j) interpolated[j][e] = values[e] + fractions_[j] * step;
    }
  }

  // Stores the rows of pixels of one cell, kTogether at a time. Each pixel is weighed from both rows of the grid: their
  // difference would take registers that there are not. Nor are there any for residuals that are read ahead.
  DELTACONV_DEVICE void store_cell(int32_t cell, const Row& above, const Row& below, Walk& walk) const {
    DELTACONV_NO_UNROLL
    while (walk.rows > 0 && walk.down.cell() == cell) {
      UpsampleWalk second = walk.down;
      second.advance();
      const bool two = kTogether == 2 && walk.rows > 1 && second.cell() == cell;
      DELTACONV_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        if (i == 1 && !two) break;
        const float weight = walk.down.fraction();
        SinkPlace at = walk.at;
        DELTACONV_UNROLL
        for (int j = 0; j < 2; ++j, sink_.next_col(at)) {
          if (j == 1 && !both_) break;
          float values[kVector];
          DELTACONV_UNROLL
          for (int e = 0; e < kVector; ++e) values[e] = (1.0f - weight) * above[j][e] + weight * below[j][e];
          if (sink_.has_residual_vectors()) sink_.add_residuals(sink_.residuals_at(at), values);
          sink_.store(at, channel_, values);
        }
        walk.down.advance();
        sink_.next_row(walk.at);
        --walk.rows;
      }
    }
  }

  const Sink<T>& sink_;
  const Stage& stage_;
  const Tile& tile_;
  const Gated& gated_;
  int32_t x_, channel_, left_, right_;  // left_ and right_ in the tile
  float fractions_[2];
  bool both_;
};

// Stores the pixels of the cells that a tile of a reduced stage owns.
template <int kPairs, class T, class Gated>
DELTACONV_DEVICE void store_upsampled(const Sink<T>& sink, const Stage& stage, const Tile& tile, const Gated& gated) {
  constexpr uint32_t kVectors = kPairs / Sink<T>::kVector, kMostPairs = 16;
  const Tiling& tiling = stage.tiling;
  const Span down = owned_cells(stage.rows, tile.index_row, tiling.count_rows, tile.row, tiling.step_rows);
  const Span across = owned_cells(stage.cols, tile.index_col, tiling.count_cols, tile.col, tiling.step_cols);
  // A thread takes two columns of pixels of a cell, and further ones where the cell is wider than `pairs` such. Where
  // there are fewer of these than threads, they are cut into runs of cells.
  const uint32_t half_width = (stage.cols.factor + 1) / 2, pairs = half_width < kMostPairs ? half_width : kMostPairs;
  const uint32_t columns = (across.end - across.begin) * pairs, count = down.end - down.begin;
  const uint32_t most = thread_count() / (columns * kVectors), runs = most < 1 ? 1 : most < count ? most : count;
  const auto cells_of_run = static_cast<int32_t>((count + runs - 1) / runs);
  for (uint32_t i = thread_index(); i < columns * kVectors * runs; i += thread_count()) {
    const auto channel = static_cast<int32_t>(i % kVectors * Sink<T>::kVector);
    const uint32_t column = i / kVectors % columns, pair = column % pairs;
    const auto cell = static_cast<int32_t>(column / pairs) + across.begin;
    const int32_t begin = down.begin + static_cast<int32_t>(i / kVectors / columns) * cells_of_run;
    const Span run{begin, begin + cells_of_run < down.end ? begin + cells_of_run : down.end};
    if (channel >= sink.channels || run.begin >= run.end) continue;
    const int32_t right = stage.cols.cell_start(cell + 1);
    DELTACONV_NO_UNROLL
    for (int32_t x = stage.cols.cell_start(cell) + 2 * pair; x < right; x += 2 * pairs) {
      UpsampledColumns<T, Gated>(sink, stage, tile, x, x + 1 < right, channel, gated).store(run);
    }
  }
}

}  // namespace deltaconv::cuda

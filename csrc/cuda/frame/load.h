// Global memory -> shared memory: rows of pixels, pooled on the way, zero outside the image. A pixel is
// kLanes float32: its channels c .. c + 15, then c + C/2 .. c + C/2 + 15. A lane of a warp is one of these
// channels.
#pragma once

#include <type_traits>

#include "cuda/device/device.h"
#include "cuda/layout/problem.h"
#include "cuda/layout/register_tile.h"

namespace deltaconv::cuda {

static_assert(kLanes == kWarp);

// The kLanes channels of one image, as the block sees them.
template <class T>
struct Source {
  const T* data;  // channel c of pixel (0, 0)
  int64_t row_stride, col_stride, half_stride;
  int32_t channels;  // of the block's pairs, those that exist, the same in both halves
  bool vectors;      // rows of kQuadValues<T> channels are 16-byte aligned and exist as a whole or not at all
  Axis rows, cols;
};

template <class T>
DELTACONV_DEVICE Source<T> source_of(const Image<const T>& image, const Sizes& sizes, int64_t index, int32_t channel,
                                     int32_t pairs, bool vectors, const Axis& rows, const Axis& cols) {
  const int64_t half = sizes.C / 2;
  const auto channels = static_cast<int32_t>(half - channel < pairs ? half - channel : pairs);
  return {image.data + index * image.batch_stride + channel,
          image.row_stride,
          image.col_stride,
          half,
          channels,
          vectors,
          rows,
          cols};
}

// The filters of one stage as an image of K x K pixels.
template <class T>
DELTACONV_DEVICE Source<T> filter_source(const T* weight, const Sizes& sizes, int32_t stage, int32_t channel,
                                         int32_t pairs, bool vectors) {
  const auto K = static_cast<int32_t>(sizes.K);
  const Image<const T> filters{weight, K * K * sizes.C, K * sizes.C, sizes.C};
  return source_of(filters, sizes, stage, channel, pairs, vectors, Axis{K, K, 1}, Axis{K, K, 1});
}

// kQuadValues<T> channels at `from`, of which the first `channels` exist.
template <class T>
DELTACONV_DEVICE void load_channels(const T* from, int32_t channels, bool vectors, float (&values)[kQuadValues<T>]) {
  if (vectors && channels > 0) {
    unpack<T>(load16_constant(from), values);
  } else {
    DELTACONV_UNROLL
    for (int i = 0; i < kQuadValues<T>; ++i) values[i] = i < channels ? to_float(from[i]) : 0.0f;
  }
}

template <class T>
DELTACONV_DEVICE void store_shared(float* to, const float (&values)[kQuadValues<T>]) {
  DELTACONV_UNROLL
  for (int i = 0; i < kQuadValues<T>; i += 4) {
    const float four[4] = {values[i], values[i + 1], values[i + 2], values[i + 3]};
    store16(to + i, pack<float>(four));
  }
}

// The mean of the pooling window of reduced pixel (row, col), which exists. The loads of 2 x 2 pixels are
// under way together.
template <class T>
DELTACONV_DEVICE void load_pooled(const Source<T>& source, const T* from, int32_t channels, int32_t row, int32_t col,
                                  float (&mean)[kQuadValues<T>]) {
  constexpr int kWidth = kQuadValues<T>;
  const int32_t top = source.rows.window_start(row), bottom = source.rows.window_end(row);
  const int32_t left = source.cols.window_start(col), right = source.cols.window_end(col);
  DELTACONV_UNROLL
  for (float& value : mean) value = 0.0f;
  for (int32_t y = top; y < bottom; y += 2) {
    for (int32_t x = left; x < right; x += 2) {
      const T* pixel = from + y * source.row_stride + x * source.col_stride;
      const auto offset = [&](int i) { return i / 2 * source.row_stride + i % 2 * source.col_stride; };
      const auto exists = [&](int i) { return y + i / 2 < bottom && x + i % 2 < right && channels > 0; };
      Quad loaded[4] = {};
      DELTACONV_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (source.vectors && exists(i)) loaded[i] = load16_constant(pixel + offset(i));
      }
      DELTACONV_UNROLL
      for (int i = 0; i < 4; ++i) {
        float values[kWidth];
        unpack<T>(loaded[i], values);
        if (!source.vectors) load_channels(pixel + offset(i), exists(i) ? channels : 0, false, values);
        DELTACONV_UNROLL
        for (int e = 0; e < kWidth; ++e) mean[e] += values[e];
      }
    }
  }
  const float weight = 1.0f / (static_cast<float>(bottom - top) * static_cast<float>(right - left));
  DELTACONV_UNROLL
  for (float& value : mean) value *= weight;
}

// kQuadValues<T> channels of reduced pixel (row, col): pooled, zero outside the grid.
template <class T>
DELTACONV_DEVICE void load_pixel(const Source<T>& source, const T* from, int32_t channels, int32_t row, int32_t col,
                                 float (&values)[kQuadValues<T>]) {
  if (row < 0 || row >= source.rows.reduced || col < 0 || col >= source.cols.reduced) {
    DELTACONV_UNROLL
    for (float& value : values) value = 0.0f;
  } else if (source.rows.factor == 1) {
    load_channels(from + row * source.row_stride + col * source.col_stride, channels, source.vectors, values);
  } else {
    load_pooled(source, from, channels, row, col, values);
  }
}

// Goes through the pixels of a rectangle `cols` wide, row by row, from the first-th in steps of `step`.
class PixelWalk {
 public:
  DELTACONV_DEVICE PixelWalk(int32_t first, int32_t step, int32_t cols)
      : row_(first / cols), col_(first % cols), step_rows_(step / cols), step_cols_(step % cols), cols_(cols) {}
  DELTACONV_DEVICE void advance() {
    row_ += step_rows_;
    col_ += step_cols_;
    if (col_ >= cols_) {
      col_ -= cols_;
      ++row_;
    }
  }
  DELTACONV_DEVICE int32_t row() const { return row_; }
  DELTACONV_DEVICE int32_t col() const { return col_; }

 private:
  int32_t row_, col_, step_rows_, step_cols_, cols_;
};

// Reduced pixels [row, row + rows) x [col, col + cols) into shared [rows][cols][kLanes]. The whole block
// takes part, a thread 16 bytes of global memory at a time, the loads of several pixels under way together.
// Complete for the block after finish_loads() and a barrier.
template <class T>
DELTACONV_DEVICE void load_rows(const Source<T>& source, int32_t row, int32_t col, int32_t rows, int32_t cols,
                                float* shared) {
  constexpr int kWidth = kQuadValues<T>, kVectors = kLanes / kWidth, kTogether = 4;
  const int in_pixel = thread_index() % kVectors * kWidth;  // first of the thread's lanes
  const int in_half = in_pixel % kPairs;
  const int32_t channels = source.channels - in_half;
  const T* from = source.data + (in_pixel / kPairs) * source.half_stride + in_half;
  const int32_t first = thread_index() / kVectors, step = thread_count() / kVectors, count = rows * cols;
  float* to = shared + first * kLanes + in_pixel;
  PixelWalk walk(first, step, cols);
  const bool direct = source.vectors && source.rows.factor == 1;
  for (int32_t i = first; i < count; i += step * (direct ? kTogether : 1)) {
    if (!direct) {
      float values[kWidth];
      load_pixel(source, from, channels, row + walk.row(), col + walk.col(), values);
      store_shared<T>(to, values);
      walk.advance();
      to += step * kLanes;
      continue;
    }
    Quad loaded[kTogether];
    DELTACONV_UNROLL
    for (int j = 0; j < kTogether; ++j) {
      const int32_t y = row + walk.row(), x = col + walk.col();
      const bool exists = 0 <= y && y < source.rows.size && 0 <= x && x < source.cols.size && channels > 0;
      const T* pixel = exists ? from + y * source.row_stride + x * source.col_stride : from;
      const bool wanted = i + j * step < count;
      if constexpr (std::is_same_v<T, float>) {
        if (wanted) copy16_async(to + j * step * kLanes, pixel, exists);
      } else {
        loaded[j] = wanted && exists ? load16_constant(pixel) : Quad{};
      }
      walk.advance();
    }
    DELTACONV_UNROLL
    for (int j = 0; j < kTogether && !std::is_same_v<T, float>; ++j) {
      float values[kWidth];
      unpack<T>(loaded[j], values);
      if (i + j * step < count) store_shared<T>(to + j * step * kLanes, values);
    }
    to += kTogether * step * kLanes;
  }
}

DELTACONV_DEVICE void finish_loads() {
  commit_copies();
  wait_copies<0>();
}

}  // namespace deltaconv::cuda

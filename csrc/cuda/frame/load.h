// Reads channels of pixels from global memory: pooled where the stage is reduced, zero outside the grid.
#pragma once

#include "cuda/device/device.h"
#include "cuda/layout/problem.h"

namespace deltaconv::cuda {

// One image as a CTA reads it: some channel pairs from its first channel on.
template <class T>
struct Source {
  const T* data;  // channel c of pixel (0, 0)
  int64_t row_stride, col_stride, half_stride;
  int32_t channels;  // those of the CTA's pairs that exist
  bool vectors;      // groups of kQuadValues<T> channels are 16-byte aligned and exist as a whole or not at all
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

// Reads kQuadValues<T> channels at `from`. Channels from `channels` on do not exist; they are zero.
template <class T>
DELTACONV_DEVICE void load_channels(const T* from, int32_t channels, bool vectors, float (&values)[kQuadValues<T>]) {
  if (vectors && channels > 0) {
    unpack<T>(load16_constant(from), values);
  } else {
    DELTACONV_UNROLL
    for (int i = 0; i < kQuadValues<T>; ++i) values[i] = i < channels ? to_float(from[i]) : 0.0f;
  }
}

// Reads the mean of the pooling window of reduced pixel (row, col), which exists. The loads of 2 x 2 pixels are
// in flight together.
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

// Reads kQuadValues<T> channels of reduced pixel (row, col): the mean of its pooling window, or zeros outside the grid.
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

// Waits for this thread's asynchronous copies; a barrier then makes them visible to the CTA.
DELTACONV_DEVICE void finish_loads() {
  commit_copies();
  wait_copies<0>();
}

}  // namespace deltaconv::cuda

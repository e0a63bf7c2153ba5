// Rows of pixels from global memory into shared memory, as float32. A pixel is kLanes values: the CTA's channels c to c
// + 15, then c + C/2 to c + C/2 + 15. A lane of a warp is one of these channels.
//
//   lane          0      1   ...      15         16  ...           31
//   channel       c  c + 1   ...  c + 15  c + C / 2  ...  c + C / 2 + 15
#pragma once

#include <type_traits>

#include "cuda/frame/load.h"
#include "cuda/layout/register_tile.h"

namespace deltaconv::cuda::cuda_cores {

static_assert(kLanes == kWarp);

template <class T>
DELTACONV_DEVICE void store_shared(float* to, const float (&values)[kQuadValues<T>]) {
  DELTACONV_UNROLL
  for (int i = 0; i < kQuadValues<T>; i += 4) {
    const float four[4] = {values[i], values[i + 1], values[i + 2], values[i + 3]};
    store16(to + i, pack<float>(four));
  }
}

// Goes through the pixels of a rectangle `cols` wide, row by row, from pixel `first` on in steps of `step`.
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

// Reads reduced pixels [row, row + rows) x [col, col + cols) into shared [rows][cols][kLanes]. The whole CTA takes
// part; a thread reads 16 bytes of global memory at a time, and the loads of several pixels are in flight together. The
// pixels are complete for the CTA after finish_loads() and a barrier.
template <class T>
DELTACONV_DEVICE void load_rows(const Source<T>& source, int32_t row, int32_t col, int32_t rows, int32_t cols,
                                float* shared) {
  constexpr int kWidth = kQuadValues<T>, kVectors = kLanes / kWidth, kTogether = 4;
  const auto thread = static_cast<uint32_t>(thread_index());  // signed divisions cost registers across the main loop
  const int in_pixel = static_cast<int>(thread % kVectors) * kWidth;  // the first of the lanes that this thread reads
  const int in_half = in_pixel % kPairs;
  const int32_t channels = source.channels - in_half;
  const T* from = source.data + (in_pixel / kPairs) * source.half_stride + in_half;
  const auto first = static_cast<int32_t>(thread / kVectors);
  const int32_t step = thread_count() / kVectors, count = rows * cols;
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

}  // namespace deltaconv::cuda::cuda_cores

// The result's gradient on a stage's grid: the stage's slice of the gradient, brought to the grid by the adjoint of
// bilinear upsampling where the stage is reduced.
#pragma once

#include "cuda/frame/load.h"
#include "cuda/frame/output.h"
#include "cuda/frame/tile.h"

namespace deltaconv::cuda {

// The stage's slice of one image's gradient, at the CTA's first channel.
template <class T>
struct GradientSlice {
  static constexpr int kVector = kQuadValues<T>;  // channels in 16 bytes

  const T* data;
  int64_t row_stride, col_stride;
  int32_t channels;  // those of the CTA's pairs that exist
  bool vectors;      // groups of kVector channels are 16-byte aligned and exist as a whole or not at all

  DELTACONV_DEVICE const T* at(int32_t y, int32_t x, int32_t channel) const {
    return data + y * row_stride + x * col_stride + channel;
  }
  // Loads channels `channel` to channel + kVector - 1 of a pixel, of which at least the first exists and lies at
  // `from`. Channels that do not exist are zero.
  template <bool kVectors>
  DELTACONV_DEVICE Quad load(const T* from, int32_t channel) const {
    if constexpr (kVectors) return load16_constant(from);
    float values[kVector];
    load_channels(from, channels - channel, false, values);
    return pack<T>(values);
  }
};

template <class T>
DELTACONV_DEVICE GradientSlice<T> gradient_slice(const BackwardArguments<T>& arguments, const Tile& tile,
                                                 int32_t pairs) {
  const int64_t half = arguments.problem.sizes.C / 2;
  const int64_t slice = arguments.problem.stages.at[tile.stage].index * half + tile.channel;
  const Image<const T>& grad = arguments.grad;
  return {grad.data + tile.image * grad.batch_stride + slice, grad.row_stride, grad.col_stride,
          static_cast<int32_t>(half - tile.channel < pairs ? half - tile.channel : pairs), arguments.problem.vectors};
}

// Finds the spans of all rows of a tile, then of all its columns; the tile may reach beyond the grid. A span takes
// several divisions, so that spans are found once for a tile. The whole CTA takes part.
DELTACONV_DEVICE void find_spans(const Stage& stage, const Tile& tile, UpsampledSpan* spans) {
  const Tiling& tiling = stage.tiling;
  for (int32_t i = thread_index(); i < tiling.rows + tiling.cols; i += thread_count()) {
    // A value first: what GCC's call writes straight into the array, ThreadSanitizer does not see.
    const UpsampledSpan span = i < tiling.rows ? UpsampledSpan::around(stage.rows, tile.row + i)
                                               : UpsampledSpan::around(stage.cols, tile.col + i - tiling.rows);
    spans[i] = span;
  }
}

// Gathers the gradient of one position of a reduced stage's grid, two columns at a time: their loads are in flight
// together, and their weights are those of all rows. So it is without vectors: sums in another order would round
// otherwise, and the same values give the same bits wherever they lie in memory.
template <bool kVectors, class T>
DELTACONV_DEVICE void gather_upsampled(const GradientSlice<T>& grad, const UpsampledSpan& rows,
                                       const UpsampledSpan& cols, int32_t channel,
                                       float (&sums)[GradientSlice<T>::kVector]) {
  constexpr int kVector = GradientSlice<T>::kVector, kTogether = 2;
  DELTACONV_NO_UNROLL
  for (int32_t x = cols.begin; x < cols.end; x += kTogether) {
    float weights[kTogether];
    DELTACONV_UNROLL
    for (int k = 0; k < kTogether; ++k) weights[k] = cols.weight(x + k);
    const T* row = grad.at(rows.begin, x, channel);
    DELTACONV_NO_UNROLL
    for (int32_t y = rows.begin; y < rows.end; ++y, row += grad.row_stride) {
      Quad loaded[kTogether];
      const T* pixel = row;
      DELTACONV_UNROLL
      for (int k = 0; k < kTogether; ++k, pixel += grad.col_stride) {
        loaded[k] = x + k < cols.end ? grad.template load<kVectors>(pixel, channel) : Quad{};
      }
      const float weight = rows.weight(y);
      DELTACONV_UNROLL
      for (int k = 0; k < kTogether; ++k) {
        const float factor = weight * weights[k];
        float values[kVector];
        unpack<T>(loaded[k], values);
        DELTACONV_UNROLL
        for (int e = 0; e < kVector; ++e) sums[e] = fused_multiply_add(factor, values[e], sums[e]);
      }
    }
  }
}

// The size of a tile; compile-time constants where the caller has them.
struct TileSize {
  int32_t rows, cols, pairs;
};

// Item i of a tile: kVector channels of one result.
template <class T>
struct GradientItem {
  int32_t row, col, channel;
  bool exists;

  DELTACONV_DEVICE GradientItem(const GradientSlice<T>& grad, const Stage& stage, const Tile& tile,
                                const TileSize& size, int32_t i) {
    constexpr int kVector = GradientSlice<T>::kVector;
    const int32_t vectors = size.pairs / kVector;
    channel = i % vectors * kVector;
    col = i / vectors % size.cols;
    row = i / vectors / size.cols;
    exists = row < size.rows && tile.row + row < stage.rows.reduced && tile.col + col < stage.cols.reduced &&
             channel < grad.channels;
  }
};

// Gathers a tile of full resolution, where the adjoint is a copy. The loads of some items are in flight together.
template <bool kVectors, class T, class Store>
DELTACONV_DEVICE void copy_gradients(const GradientSlice<T>& grad, const Stage& stage, const Tile& tile,
                                     const TileSize& size, const Store& store) {
  constexpr int kVector = GradientSlice<T>::kVector, kTogether = kVectors ? 4 : 1;
  const int32_t items = size.rows * size.cols * (size.pairs / kVector);
  DELTACONV_NO_UNROLL
  for (int32_t first = thread_index(); first < items; first += kTogether * thread_count()) {
    Quad loaded[kTogether];
    DELTACONV_UNROLL
    for (int k = 0; k < kTogether; ++k) {
      const GradientItem<T> item(grad, stage, tile, size, first + k * thread_count());
      loaded[k] = Quad{};
      if (item.exists) {
        loaded[k] =
            grad.template load<kVectors>(grad.at(tile.row + item.row, tile.col + item.col, item.channel), item.channel);
      }
    }
    DELTACONV_UNROLL
    for (int k = 0; k < kTogether; ++k) {
      const GradientItem<T> item(grad, stage, tile, size, first + k * thread_count());
      float values[kVector];
      unpack<T>(loaded[k], values);
      if (item.row < size.rows) store(item.row, item.col, item.channel, values);
    }
  }
}

template <bool kVectors, class T, class Store>
DELTACONV_DEVICE void gather_gradients(const GradientSlice<T>& grad, const Stage& stage, const Tile& tile,
                                       const TileSize& size, const UpsampledSpan* spans, const Store& store) {
  constexpr int kVector = GradientSlice<T>::kVector;
  if (stage.rows.factor == 1) {
    copy_gradients<kVectors>(grad, stage, tile, size, store);
    return;
  }
  const int32_t items = size.rows * size.cols * (size.pairs / kVector);
  DELTACONV_NO_UNROLL
  for (int32_t i = thread_index(); i < items; i += thread_count()) {
    const GradientItem<T> item(grad, stage, tile, size, i);
    float values[kVector] = {};
    if (item.exists) {
      gather_upsampled<kVectors>(grad, spans[item.row], spans[size.rows + item.col], item.channel, values);
    }
    store(item.row, item.col, item.channel, values);
  }
}

// Gathers the gradients of all results of a tile, zero outside the grid, and hands them to store(row, col, channel,
// values), kVector channels at a time. `spans` are those of find_spans, which reduced stages alone need. The whole
// CTA takes part.
template <class T, class Store>
DELTACONV_DEVICE void gather_gradients(const GradientSlice<T>& grad, const Stage& stage, const Tile& tile,
                                       const TileSize& size, const UpsampledSpan* spans, const Store& store) {
  if (grad.vectors) {
    gather_gradients<true>(grad, stage, tile, size, spans, store);
  } else {
    gather_gradients<false>(grad, stage, tile, size, spans, store);
  }
}

}  // namespace deltaconv::cuda

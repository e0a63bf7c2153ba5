// The adjoint of average pooling as a gather: what a pixel gets from the windows that hold it.
#pragma once

#include "cuda/frame/load.h"
#include "cuda/frame/planes.h"

namespace deltaconv::cuda {

// The one or two pooling windows that hold a pixel, and the pixel's weight in each.
struct Windows {
  int32_t last;
  float weight, weight_before;  // in `last`, and in the window before it: 0 where that does not hold the pixel
};

DELTACONV_DEVICE Windows windows_of(const Axis& axis, int32_t pixel) {
  if (axis.reduced * axis.factor == axis.size) {
    return {static_cast<int32_t>(static_cast<uint32_t>(pixel) / axis.factor), 1.0f / static_cast<float>(axis.factor),
            0.0f};
  }
  const int32_t last = axis.last_window(pixel);
  const bool two = last > 0 && axis.window_end(last - 1) > pixel;
  const auto weight = [&](int32_t i) { return 1.0f / static_cast<float>(axis.window_end(i) - axis.window_start(i)); };
  return {last, weight(last), two ? weight(last - 1) : 0.0f};
}

// Adds to `values` what 8 channels of pixel (y, x) get from the stage's plane. `channels` of the 8 exist.
DELTACONV_DEVICE void add_pooled(const Plane& plane, const Stage& stage, int32_t y, int32_t x, int32_t channel,
                                 int64_t channels, bool vectors, float (&values)[8]) {
  const Windows down = windows_of(stage.rows, y), across = windows_of(stage.cols, x);
  const int rows = down.weight_before != 0.0f ? 2 : 1, cols = across.weight_before != 0.0f ? 2 : 1;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < cols; ++j) {
      const float* from = plane.at(down.last - i, across.last - j) + channel;
      const float weight =
          (i == 0 ? down.weight : down.weight_before) * (j == 0 ? across.weight : across.weight_before);
      DELTACONV_UNROLL
      for (int part = 0; part < 2; ++part) {
        float loaded[4];
        load_channels(from + 4 * part, static_cast<int32_t>(channels) - 4 * part, vectors, loaded);
        DELTACONV_UNROLL
        for (int e = 0; e < 4; ++e) {
          float& value = values[4 * part + e];
          value = fused_multiply_add(weight, loaded[e], value);
        }
      }
    }
  }
}

// Stores 8 channels, of which `channels` exist.
template <class T>
DELTACONV_DEVICE void store_values(T* to, int64_t channels, bool vectors, const float (&values)[8]) {
  constexpr int kWidth = kQuadValues<T>;
  DELTACONV_UNROLL
  for (int i = 0; i < 8; i += kWidth) {
    float some[kWidth];
    DELTACONV_UNROLL
    for (int e = 0; e < kWidth; ++e) some[e] = values[i + e];
    if (vectors) {
      store16(to + i, pack<T>(some));
    } else {
      DELTACONV_UNROLL
      for (int e = 0; e < kWidth; ++e) {
        if (i + e < channels) to[i + e] = from_float<T>(some[e]);
      }
    }
  }
}

}  // namespace deltaconv::cuda

// Planes of the backward pass's workspace: [B, h, w, C] float32, contiguous.
#pragma once

#include "cuda/frame/load.h"
#include "cuda/frame/tile.h"

namespace deltaconv::cuda {

// One image of a plane, at the block's first channel.
struct Plane {
  float* data;
  int64_t row_stride, col_stride;
  DELTACONV_DEVICE float* at(int32_t row, int32_t col) const { return data + row * row_stride + col * col_stride; }
};

DELTACONV_DEVICE Plane plane_of(float* planes, const Sizes& sizes, const Stage& stage, const Tile& tile) {
  const int64_t row_stride = stage.cols.reduced * sizes.C;
  return {planes + tile.image * (stage.rows.reduced * row_stride) + tile.channel, row_stride, sizes.C};
}

// The same as the input of a convolution: the stage's own grid, not pooled.
DELTACONV_DEVICE Source<float> plane_source(const float* planes, const Sizes& sizes, const Stage& stage, int32_t image,
                                            int32_t channel) {
  const int64_t row_stride = stage.cols.reduced * sizes.C;
  const Image<const float> images{planes, stage.rows.reduced * row_stride, row_stride, sizes.C};
  return source_of(images, sizes, image, channel, kPairs, sizes.C / 2 % kQuadValues<float> == 0,
                   Axis{stage.rows.reduced, stage.rows.reduced, 1}, Axis{stage.cols.reduced, stage.cols.reduced, 1});
}

}  // namespace deltaconv::cuda

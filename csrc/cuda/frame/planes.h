// Float32 planes of the backward pass's workspace: [B, h, w, C], contiguous.
#pragma once

#include "cuda/frame/tile.h"

namespace deltaconv::cuda {

// One image of such a plane, at the CTA's first channel.
struct Plane {
  float* data;
  int64_t row_stride, col_stride;
  DELTACONV_DEVICE float* at(int32_t row, int32_t col) const { return data + row * row_stride + col * col_stride; }
};

DELTACONV_DEVICE Plane plane_of(float* planes, const Sizes& sizes, const Stage& stage, const Tile& tile) {
  const int64_t row_stride = stage.cols.reduced * sizes.C;
  return {planes + tile.image * (stage.rows.reduced * row_stride) + tile.channel, row_stride, sizes.C};
}

}  // namespace deltaconv::cuda

// Planes of the backward pass's workspace as the input of a convolution.
#pragma once

#include "cuda/cuda_cores/load.h"
#include "cuda/frame/planes.h"

namespace deltaconv::cuda::cuda_cores {

// A plane is read on the stage's own grid, without pooling.
DELTACONV_DEVICE Source<float> plane_source(const float* planes, const Sizes& sizes, const Stage& stage, int32_t image,
                                            int32_t channel) {
  const int64_t row_stride = stage.cols.reduced * sizes.C;
  const Image<const float> images{planes, stage.rows.reduced * row_stride, row_stride, sizes.C};
  return source_of(images, sizes, image, channel, kPairs, sizes.C / 2 % kQuadValues<float> == 0,
                   Axis{stage.rows.reduced, stage.rows.reduced, 1}, Axis{stage.cols.reduced, stage.cols.reduced, 1});
}

}  // namespace deltaconv::cuda::cuda_cores

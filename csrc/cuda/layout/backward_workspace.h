// How the backward pass on tensor cores keeps the gradients of a stage's convolution between its launches: one
// zero-padded plane for each image and channel, in the storage type, so that the next launch copies rows of it into
// shared memory 16 bytes at a time.
//
//   plane   [rows][pitch] of T. Pixel x of a row is element lead + x of it; the elements around the pixels are zero.
//           `lead` lets the window of a flipped convolution, K / 2 left of a tile, begin at a multiple of 8 elements.
//   scale   float16 alone has scales, one for each cell of 16 x 16 pixels: a value of the plane is what is stored times
//           the scale. float16 has normal numbers of 30 powers of two; the largest value of a cell is stored at 2^7 to
//           2^15, so that what is lost is at most 2^-32 of it. Only every eighth power is used, so that neighbouring
//           cells mostly have equal scales. bfloat16 needs no scales, because it has the range of float32.
//
//   K = 7, a stage 10 pixels wide: lead = 3, pitch = 16
//   element of the row      0  1  2   3   4   5  ...  12  13  14  15
//   pixel                   0  0  0  x0  x1  x2  ...  x9   0   0   0
//   window of the tile at column 8 begins at pixel 5, which is element 8
#pragma once

#include "cuda/layout/geometry.h"
#include "pyramid.h"

namespace deltaconv::cuda::tensor_cores {

inline constexpr int32_t kCell = 16;

// A scale is a power of two. Its exponent is a multiple of kScaleStep and at least kSmallestScale: what float16 loses
// there is below 2^-72, where sums of any image's size round to zero in float16.
inline constexpr int kScaleStep = 8, kSmallestScale = -48;

// The planes of one stage, and where they lie in the stage's part of the workspace.
struct GradientGrid {
  int32_t rows, cols, lead, pitch, cell_rows, cell_cols;
  int64_t channels;  // C

  DELTACONV_ANYWHERE GradientGrid(const Axis& down, const Axis& across, const Sizes& sizes)
      : rows(down.reduced),
        cols(across.reduced),
        lead(static_cast<int32_t>(sizes.K) / 2 % 8),
        pitch((lead + cols + 7) / 8 * 8),
        cell_rows((rows + kCell - 1) / kCell),
        cell_cols((cols + kCell - 1) / kCell),
        channels(sizes.C) {}

  DELTACONV_ANYWHERE int64_t plane_elements() const { return static_cast<int64_t>(rows) * pitch; }
  DELTACONV_ANYWHERE int64_t plane_cells() const { return static_cast<int64_t>(cell_rows) * cell_cols; }

  // The first element, and the first scale, of the plane of one channel of one image.
  DELTACONV_ANYWHERE int64_t plane(int64_t image, int64_t channel) const {
    return (image * channels + channel) * plane_elements();
  }
  DELTACONV_ANYWHERE int64_t scales(int64_t image, int64_t channel) const {
    return (image * channels + channel) * plane_cells();
  }
};

}  // namespace deltaconv::cuda::tensor_cores

// How the backward pass on tensor cores keeps the gradients of a stage's convolution between its launches:
// one zero-padded plane for each image and channel, in the storage type, so that a consumer copies rows of
// it into shared memory 16 bytes at a time.
//
//   plane   [rows][pitch] of T; pixel x of a row is its element lead + x, zeros are around. A flipped
//           convolution's window begins K / 2 left of a tile: at a multiple of 8 elements.
//   scale   float16 alone: a plane's value is what is stored times a power of two, one for each cell of
//           16 x 16 pixels. float16 has normal numbers of 30 powers of two, the cell's largest is stored at
//           2^7 to 2^15: what is lost is 2^-32 of it at most. Only every eighth power is used, so that
//           neighbouring cells mostly have the same. bfloat16 has float32's range.
#pragma once

#include "cuda/layout/geometry.h"
#include "pyramid.h"

namespace deltaconv::cuda {

inline constexpr int32_t kCell = 16;

// Exponents of a scale: multiples of the step, from the smallest on. What float16 loses at the smallest is
// below 2^-72, where sums of any image's size round to zero in float16.
inline constexpr int kScaleStep = 8, kSmallestScale = -48;

// The planes of one stage.
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

  // Of the plane of an image's channel, its first element among the stage's, and its first scale.
  DELTACONV_ANYWHERE int64_t plane(int64_t image, int64_t channel) const {
    return (image * channels + channel) * plane_elements();
  }
  DELTACONV_ANYWHERE int64_t scales(int64_t image, int64_t channel) const {
    return (image * channels + channel) * plane_cells();
  }
};

}  // namespace deltaconv::cuda

// How the fused block keeps what its in-projection writes for a pyramid on tensor cores: for every grid that a stage
// reads, one plane for each image and channel, so that the pyramid copies rows of it into shared memory 16 bytes at a
// time. Grids of reduced stages hold means of pooling windows.
//
//   plane   [rows][pitch] of T. Pixel x of a row is element lead + x of it; the elements around the pixels are zero.
//
// A tile's window begins `margin` pixels left of the tile: half of the kernel, rounded up to 4 pixels, so that pixels
// lie at multiples of 8 bytes whatever K is. `lead` puts windows at multiples of 8 elements. The banded matrix has
// zeros where the margin is wider than half of the kernel; no K needs a fragment more for that.
//
//   K = 9, a grid 10 pixels wide: margin = 4, lead = 4, pitch = 16
//   element of the row      0  1  2  3  4   5   6  ...  13  14  15
//   pixel                   0  0  0  0  x0  x1  x2  ...  x9   0   0
//   window of the tile at column 8 begins at pixel 4, which is element 8
#pragma once

#include "cuda/layout/geometry.h"
#include "pyramid.h"

namespace deltaconv::cuda {

struct ChannelPlanes {
  int32_t rows = 0, cols = 0, lead = 0, pitch = 0;
  int64_t channels = 0;  // C

  ChannelPlanes() = default;
  DELTACONV_ANYWHERE ChannelPlanes(int32_t rows, int32_t cols, const Sizes& sizes)
      : rows(rows),
        cols(cols),
        lead(margin(static_cast<int32_t>(sizes.K)) % 8),
        pitch((lead + cols + 7) / 8 * 8),
        channels(sizes.C) {}

  static DELTACONV_ANYWHERE int32_t margin(int32_t K) {
    return static_cast<int32_t>((static_cast<uint32_t>(K) / 2 + 3) / 4 * 4);
  }

  DELTACONV_ANYWHERE int64_t plane_elements() const { return static_cast<int64_t>(rows) * pitch; }

  // The first element of the plane of one channel of one image.
  DELTACONV_ANYWHERE int64_t plane(int64_t image, int64_t channel) const {
    return (image * channels + channel) * plane_elements();
  }
};

// The planes of a grid of means of factor x factor pixels, and where they begin.
struct PlanarGrid {
  int32_t factor_bits = 0;  // the factor is 1 << factor_bits
  ChannelPlanes planes;
  int64_t offset = 0;
};

// The grids that the in-projection writes, at most those of factors 1, 2 and 4, and how it cuts an image: into
// rectangles of pixels, so that pooling windows lie in one rectangle. Their width is a power of two.
struct PlanarGrids {
  static constexpr int32_t kMostFactorBits = 2;

  int32_t count = 0;
  PlanarGrid at[kMostFactorBits + 1];
  int64_t elements = 0;    // all planes' values
  int32_t width_bits = 0;  // a rectangle is 1 << width_bits wide
  int32_t across = 0;      // rectangles in a row of an image

  const PlanarGrid& of_factor(int32_t factor) const {
    int32_t g = 0;
    while (1 << at[g].factor_bits != factor) ++g;
    return at[g];
  }
};

}  // namespace deltaconv::cuda

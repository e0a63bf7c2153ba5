// What the host hands to the fused block's kernels, by value.
#pragma once

#include "cuda/layout/channel_planes.h"
#include "cuda/layout/product_tile.h"

namespace deltaconv::cuda::fused_block {

// A 1 x 1 convolution: to[p][n] = sum over k of from[p][k] * weight[n][k] for the pixels p of every image. The rows of
// a CTA's tile are pixels of one image.
template <class T>
struct Projection {
  int64_t images, pixels;
  int32_t depth, cols;           // multiples of 8
  int32_t row_tiles, col_tiles;  // tiles of an image
  const T* from;                 // [images, pixels, depth]
  const T* weight;               // [cols, depth]
  T* to;                         // [images, pixels, cols]
};

// The arguments of the in-projection: hidden = in_proj(x), and the sums that the mean is made of.
template <class T>
struct InProjectionArguments {
  Projection<T> projection;
  const T* bias;  // [cols] or null
  float* sums;    // [images, row_tiles, depth]: sums of x over a tile's pixels
};

// The arguments of an in-projection that writes channel planes: `to` of the projection holds the planes of every grid.
// Its row_tiles are rectangles of pixels, its col_tiles those of channels.
template <class T>
struct PlanarInProjectionArguments {
  InProjectionArguments<T> in;
  int32_t height, width;  // an image's
  PlanarGrids grids;
};

// The arguments of the shift: partial[s][b][n] = sum over the channels k of slice s of mean[b][k] * weight[n][k]. The
// first slice has the biases too.
template <class T>
struct ShiftArguments {
  int64_t images, pixels;
  int32_t channels, row_tiles;
  int32_t slices, output_tiles;
  const float* sums;     // [images, row_tiles, channels]
  const T* weight;       // [channels, channels]
  const T *bias, *more;  // [channels] or null: bias of this projection, and of the one that the shift is added to
  float* partial;        // [slices, images, channels]
};

// The arguments of the out-projection: result = out_proj(local) + the sum of the shift's slices + residual.
template <class T>
struct OutProjectionArguments {
  Projection<T> projection;
  int32_t slices;
  const float* partial;  // [slices, images, cols]
  const T* residual;     // [images, pixels, cols] or null
};

}  // namespace deltaconv::cuda::fused_block

// The two projections of the fused block. The in-projection also makes the sums for the mean; the out-projection adds
// the shift and the residual.
#pragma once

#include "cuda/fused_block/product.h"

namespace deltaconv::cuda::fused_block {

// Shared memory for the value that is added to every pixel of the tile: one float32 for each column.
template <class Tile>
DELTACONV_DEVICE float* addend_of() {
  return reinterpret_cast<float*>(shared_memory() + Tile::kAddendOffset);
}

// Sums one step's channels over kPixels pixels, as a product with a matrix of ones; a warp takes 8 channels at a time.
template <class T, class Tile, int kPixels>
DELTACONV_DEVICE void sum_pixels(const T* pixels, int step, int32_t channels, float* sums) {
  const uint32_t pair_of_ones = pack_pair<T>(1.0f, 1.0f);
  const FragmentA ones{{pair_of_ones, pair_of_ones}};
  DELTACONV_NO_UNROLL
  for (int chunk = warp_index(); chunk < kProductDepth / 8; chunk += Tile::kThreads / kWarp) {
    Accumulator sum{{0, 0, 0, 0}};
    // Not unrolled, because the registers belong to the main product.
    DELTACONV_NO_UNROLL
    for (int row = 0; row < kPixels; row += 32) {
      FragmentA upper, lower;  // 16 pixels each
      load_fragments_transposed(pixels + row * kProductDepth + chunk_offset(lane_index(), chunk), upper, lower);
      multiply_add<T>(sum, ones, ones, upper.words[0], upper.words[1]);
      multiply_add<T>(sum, ones, ones, lower.words[0], lower.words[1]);
    }
    const int32_t channel = step * kProductDepth + 8 * chunk + 2 * lane_index();
    if (lane_index() < 4 && channel < channels) {
      sums[channel] = sum.values[0];
      sums[channel + 1] = sum.values[1];
    }
  }
}

template <class T, class Tile>
struct InProjection {
  static constexpr int kMaxThreads = Tile::kThreads, kMinBlocks = 512 / Tile::kThreads;

  static DELTACONV_DEVICE void run(const InProjectionArguments<T>& arguments) {
    const Projection<T>& projection = arguments.projection;
    const ProductPlace<Tile> place(projection);
    Product<T, Tile> product = product_of_pixels<T, Tile>(projection, place);
    float* addend = addend_of<Tile>();
    for (int c = thread_index(); c < Tile::kCols; c += Tile::kThreads) {
      const int32_t col = place.col() + c;
      addend[c] = arguments.bias && col < projection.cols ? to_float(arguments.bias[col]) : 0.0f;
    }
    int turn = place.col_tile;  // the CTAs that share these pixels take turns
    product.run([&](int step, const T* pixels) {
      if (step != turn) return;
      turn += projection.col_tiles;
      const int64_t tile = int64_t{place.image} * projection.row_tiles + place.row_tile;
      sum_pixels<T, Tile, Tile::kRows>(pixels, step, projection.depth, arguments.sums + tile * projection.depth);
    });
    struct Nothing {};
    const auto load = [](int64_t) { return Nothing{}; };
    store_product(projection, place, product, load, [&](Nothing, int col, float (&values)[8]) {
      float add[8];
      load_eight(addend + col, add);
      DELTACONV_UNROLL
      for (int e = 0; e < 8; ++e) values[e] += add[e];
    });
  }
};

template <class T, class Tile>
struct OutProjection {
  static constexpr int kMaxThreads = Tile::kThreads, kMinBlocks = 512 / Tile::kThreads;

  static DELTACONV_DEVICE void run(const OutProjectionArguments<T>& arguments) {
    const Projection<T>& projection = arguments.projection;
    const ProductPlace<Tile> place(projection);
    Product<T, Tile> product = product_of_pixels<T, Tile>(projection, place);
    float* addend = addend_of<Tile>();
    for (int c = thread_index(); c < Tile::kCols; c += Tile::kThreads) {
      addend[c] = shift(arguments, place.image, place.col() + c);
    }
    product.run([](int, const T*) {});
    const auto load = [&](int64_t at) {
      return arguments.residual ? load16_constant(arguments.residual + at) : Quad{};
    };
    store_product(projection, place, product, load, [&](const Quad& loaded, int col, float (&values)[8]) {
      float residual[8];  // zeros where there is none
      unpack<T>(loaded, residual);
      float add[8];
      load_eight(addend + col, add);
      DELTACONV_UNROLL
      for (int e = 0; e < 8; ++e) values[e] += add[e] + residual[e];
    });
  }

 private:
  static DELTACONV_DEVICE float shift(const OutProjectionArguments<T>& arguments, int64_t image, int32_t col) {
    const Projection<T>& projection = arguments.projection;
    if (col >= projection.cols) return 0.0f;
    const int64_t slice = projection.images * projection.cols;
    const float* partial = arguments.partial + image * projection.cols + col;
    float sum = 0;
    for (int s = 0; s < arguments.slices; ++s, partial += slice) sum += *partial;
    return sum;
  }
};

}  // namespace deltaconv::cuda::fused_block

// The in-projection of a fused block whose pyramid runs on tensor cores. The rows of its product are output channels,
// the columns are pixels, so that a thread's sums are neighbouring pixels of a channel: they are rounded in registers,
// and leave shared memory as rows of channel planes (channel_planes.h). Grids of reduced stages are pooled on the way.
#pragma once

#include "cuda/fused_block/projection.h"

namespace deltaconv::cuda::fused_block {

// Four neighbouring pixels of a channel.
struct alignas(8) PixelQuad {
  uint32_t words[2];
};

template <class T, class Tile>
struct PlanarInProjection {
  static constexpr int kMaxThreads = Tile::kThreads, kMinBlocks = 512 / Tile::kThreads;

  static DELTACONV_DEVICE void run(const PlanarInProjectionArguments<T>& arguments) {
    const Projection<T>& projection = arguments.in.projection;
    const Place place(arguments);
    Product<T, Tile> product(weights(projection, place), pixels(arguments, place), projection.depth);
    float* addend = addend_of<Tile>();
    for (int c = thread_index(); c < Tile::kRows; c += Tile::kThreads) {
      const int32_t channel = place.channel + c;
      addend[c] = arguments.in.bias && channel < projection.cols ? to_float(arguments.in.bias[channel]) : 0.0f;
    }
    int turn = place.channel / Tile::kRows;  // the CTAs that share these pixels take turns
    product.run([&](int step, const T* operands) {
      if (step != turn) return;
      turn += projection.col_tiles;
      const int64_t tile = int64_t{place.image} * projection.row_tiles + place.rectangle;
      sum_pixels<T, Tile, Tile::kCols>(operands + Tile::kRows * kProductDepth, step, projection.depth,
                                       arguments.in.sums + tile * projection.depth);
    });

    auto* rounded = reinterpret_cast<T*>(shared_memory());
    product.for_each_pair([&](int row, int col, float left, float right) {
      const float add = addend[row];
      *reinterpret_cast<uint32_t*>(rounded + row * kPitch + col) = pack_pair<T>(left + add, right + add);
    });
    sync_block();
    DELTACONV_NO_UNROLL
    for (int32_t g = 0; g < arguments.grids.count; ++g) {
      const PlanarGrid& grid = arguments.grids.at[g];
      if (grid.factor_bits == 0) {
        store_grid<0>(arguments, place, grid, rounded);
      } else if (grid.factor_bits == 1) {
        store_grid<1>(arguments, place, grid, rounded);
      } else {
        store_grid<2>(arguments, place, grid, rounded);
      }
    }
  }

 private:
  using Walk = OperandWalk<Tile>;

  // Rounded results wait as [channels][kPitch]. A warp writes 4 words to each of 8 rows: these rows are 4 banks apart.
  static constexpr int kPitch = Tile::kCols + 8;
  static_assert(kPitch / 2 % 32 == 4 && 2 * Tile::kRows * kPitch <= Tile::kAddendOffset);

  // Where the CTA is. Neighbouring CTAs share their pixels.
  struct Place {
    int32_t image, rectangle, channel;  // the first channel
    int32_t top, left;                  // the first pixel

    DELTACONV_DEVICE explicit Place(const PlanarInProjectionArguments<T>& arguments) {
      const ProductPlace<Tile> place(arguments.in.projection);
      image = place.image;
      rectangle = place.row_tile;
      channel = place.col_tile * Tile::kRows;
      const auto tile = static_cast<uint32_t>(rectangle), across = static_cast<uint32_t>(arguments.grids.across);
      top = static_cast<int32_t>(tile / across) * (Tile::kCols >> arguments.grids.width_bits);
      left = static_cast<int32_t>(tile % across) << arguments.grids.width_bits;
    }
  };

  static DELTACONV_DEVICE OperandRows<T> weights(const Projection<T>& projection, const Place& place) {
    return Walk::consecutive(projection.weight + int64_t{place.channel} * projection.depth, projection.depth,
                             projection.cols - place.channel, Tile::kRows);
  }

  // A thread's pixels are those of one column of the rectangle: its width divides Walk::kStride.
  static DELTACONV_DEVICE OperandRows<T> pixels(const PlanarInProjectionArguments<T>& arguments, const Place& place) {
    const Projection<T>& projection = arguments.in.projection;
    const int bits = arguments.grids.width_bits, step = Walk::kStride >> bits;
    const int32_t y = place.top + (Walk::row() >> bits), x = place.left + (Walk::row() & ((1 << bits) - 1));
    const int32_t down = arguments.height - y, rows = down < Tile::kCols ? down : Tile::kCols;
    const int64_t pixel = int64_t{place.image} * projection.pixels + int64_t{y} * arguments.width + x;
    return {projection.from + pixel * projection.depth + 8 * Walk::chunk(),
            int64_t{step} * arguments.width * projection.depth,
            x < arguments.width ? (rows + step - 1) / step * Walk::kStride : 0};
  }

  // Stores the rectangle's part of one grid: a thread keeps to four neighbouring pixels and walks over channels.
  template <int kFactorBits>
  static DELTACONV_DEVICE void store_grid(const PlanarInProjectionArguments<T>& arguments, const Place& place,
                                          const PlanarGrid& grid, const T* rounded) {
    constexpr int kFactor = 1 << kFactorBits, kQuads = Tile::kCols / 4 / (kFactor * kFactor);
    constexpr int kStride = Tile::kThreads / kQuads;
    const int bits = arguments.grids.width_bits, grid_bits = bits - kFactorBits;
    const int thread = fresh(thread_index()), pixel = thread % kQuads * 4;
    const int row = pixel >> grid_bits, col = pixel & ((1 << grid_bits) - 1);
    const ChannelPlanes& planes = grid.planes;
    const int32_t y = (place.top >> kFactorBits) + row, x = (place.left >> kFactorBits) + col;
    if (y >= planes.rows || x >= planes.cols) return;
    const int32_t exist = planes.cols - x;  // from the first pixel on
    // The pixels at the ends of a row write the zeros around it.
    const bool first = x == 0 && planes.lead > 0, last = exist <= 4 && planes.lead + x + 4 < planes.pitch;
    int channel = thread / kQuads;
    const T* from = rounded + channel * kPitch + ((row << bits) + col) * kFactor;
    T* to = arguments.in.projection.to + grid.offset + planes.plane(place.image, place.channel + channel) +
            int64_t{y} * planes.pitch + planes.lead + x;
    const int64_t step = kStride * planes.plane_elements();
    const int32_t channels = arguments.in.projection.cols - place.channel;
    DELTACONV_NO_UNROLL
    for (; channel < Tile::kRows && channel < channels; channel += kStride, from += kStride * kPitch, to += step) {
      PixelQuad quad;
      if constexpr (kFactor == 1) {
        quad = *reinterpret_cast<const PixelQuad*>(from);
      } else {
        quad = pooled<kFactor>(from, 1 << bits);
      }
      *reinterpret_cast<PixelQuad*>(to) = existing(quad, exist);
      if (first) *reinterpret_cast<PixelQuad*>(to - 4) = {{0, 0}};
      if (last) *reinterpret_cast<PixelQuad*>(to + 4) = {{0, 0}};
    }
  }

  // Zeros where there are fewer than four pixels.
  static DELTACONV_DEVICE PixelQuad existing(const PixelQuad& quad, int32_t count) {
    const uint32_t left = count > 1 ? quad.words[0] : quad.words[0] & 0xffffu;
    const uint32_t right = count > 3 ? quad.words[1] : count > 2 ? quad.words[1] & 0xffffu : 0;
    return {{left, right}};
  }

  // The means of four neighbouring windows.
  template <int kFactor>
  static DELTACONV_DEVICE PixelQuad pooled(const T* from, int width) {
    float sums[4] = {};
    DELTACONV_UNROLL
    for (int r = 0; r < kFactor; ++r) {
      DELTACONV_UNROLL
      for (int n = 0; n < kFactor / 2; ++n) {
        float values[8];
        unpack<T>(load16(from + r * width + 8 * n), values);
        DELTACONV_UNROLL
        for (int e = 0; e < 8; ++e) sums[(8 * n + e) / kFactor] += values[e];
      }
    }
    constexpr float kWeight = 1.0f / (kFactor * kFactor);
    return {{pack_pair<T>(sums[0] * kWeight, sums[1] * kWeight), pack_pair<T>(sums[2] * kWeight, sums[3] * kWeight)}};
  }
};

}  // namespace deltaconv::cuda::fused_block

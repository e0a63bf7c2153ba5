// The gradients of weight and bias on tensor cores, for storage types of 16 bits: partial sums of fixed partitions of
// the pixels, which cuda_cores::PyramidBackwardWeightSum adds up. docs/cuda/gradients.md explains the mapping.
//
// For each channel and kernel row kh, with P the zero-padded plane of inputs and G the plane of gradients, the products
// P[r + kh][X + m] G[r][x + n] of 32 rows r, 16 columns m and 8 columns n are two matrix products that are 16 rows
// deep. A tap kw is the sum of the diagonal X + m - x - n = kw: K of 8 kBand rows, a band as in the forward. Both
// operands are rows of their planes, which ldmatrix transposes on the way or which are read as they are.
//
//   K = 3, X = x, the products of one kernel row by the tap that they belong to
//
//               n = 0  1  2  3
//     m = 0         0  .  .  .
//     m = 1         1  0  .  .
//     m = 2         2  1  0  .
//     m = 3         .  2  1  0     and so on; . is no tap
//
// Rows. A product takes rows of equal parity: the inputs of rows t, t + 2, ... serve kernel row t with the even rows of
// gradients, and kernel row t - 1 with the odd rows.
//
// Halves. The upper and lower 8 of the 16 rows are the halves of a tile, which may belong to two images.
//
// Warps. A warp has its channel, its memory and its copies to itself, from the first tile of the partition to the last.
// The CTA needs one barrier only, at the end.
//
// Scales. In float16 the cells of a tile are brought to the scale of the largest one, which is exact or loses 2^-32 of
// the largest; the tile's sums are multiplied by the scale in float32.
#pragma once

#include "cuda/tensor_cores/weight/tile.h"

namespace deltaconv::cuda::tensor_cores {

template <class T>
struct WeightBandArguments {
  BackwardArguments<T> backward;
  float* partials;                 // [partitions, S, K * K + 1, C]
  int32_t partitions, input_rows;  // rows of inputs that a buffer holds
};

template <class T, class Band>
struct PyramidBackwardWeight {
  static constexpr int kMaxThreads = kWeightBandThreads, kMinBlocks = 2;

  static DELTACONV_DEVICE void run(const WeightBandArguments<T>& arguments) {
    const Problem<T>& problem = arguments.backward.problem;
    const int warps = thread_count() / kWarp;
    const uint32_t channel_blocks = (static_cast<uint32_t>(problem.sizes.C) + warps - 1) / warps;
    auto rest = static_cast<uint32_t>(block_index());
    const int32_t first_channel = static_cast<int32_t>(rest % channel_blocks) * warps;
    rest /= channel_blocks;
    const auto partition = static_cast<int32_t>(rest % arguments.partitions);
    const Stage& stage = problem.stages.at[rest / arguments.partitions];
    const auto tiles = static_cast<int32_t>(stage.tiling.count());
    if (partition >= tiles) return;
    const Span mine = share(tiles, partition, arguments.partitions < tiles ? arguments.partitions : tiles);

    std::byte* shared = shared_memory();
    const auto K = static_cast<int>(problem.sizes.K);
    const int warp = warp_index(), pitch = weight_totals(K);
    const int64_t buffer_bytes = 2 * Band::buffer_bytes(arguments.input_rows);
    auto* planes = reinterpret_cast<ChannelPlanes<T>*>(shared + warps * buffer_bytes);
    auto* totals = reinterpret_cast<float*>(planes + warps);
    if (first_channel + warp < problem.sizes.C) {
      if (fresh_lane_index() == 0) planes[warp] = ChannelPlanes<T>(arguments.backward, stage, first_channel + warp);
      for (int i = 4 * fresh_lane_index(); i < pitch; i += 4 * kWarp) store16(totals + warp * pitch + i, {});
      sync_warp();
      add_tiles(planes[warp], K, arguments.input_rows, mine.begin, mine.end,
                reinterpret_cast<T*>(shared + warp * buffer_bytes), totals + warp * pitch);
    }
    sync_block();

    const int64_t first = (partition * problem.sizes.S + stage.index) * (int64_t{K} * K + 1) * problem.sizes.C;
    store_totals(totals, K, problem.sizes.C, first_channel, arguments.partials + first);
  }

 private:
  // Adds the sums of one channel over tiles [begin, end); one warp does it. While it works on a tile, the copies of the
  // next tile are in flight.
  static DELTACONV_DEVICE void add_tiles(const ChannelPlanes<T>& planes, int K, int input_rows, int32_t begin,
                                         int32_t end, T* buffers, float* totals) {
    const int buffer_elements = static_cast<int>(Band::buffer_bytes(input_rows) / 2);
    TileScales<Band> next_scales;
    bool next_joined = false;
    for (int32_t next = begin; next <= end; ++next) {
      const TileScales<Band> scales = next_scales;
      const bool joined = next_joined;
      if (next < end) {
        const WeightTileAt at(planes, next, Band::kCols);
        copy_tile<Band>(planes, at, fresh(K), input_rows, buffers + (next - begin) % 2 * buffer_elements);
        next_scales = TileScales<Band>(planes, at);
        next_joined = at.joined;
        if (next == begin) continue;
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      sync_warp();
      const T* inputs = buffers + (next - begin + 1) % 2 * buffer_elements;
      const WeightTile<T, Band> tile(inputs, inputs + input_rows * Band::kPitch, input_rows, joined, K,
                                     planes.grid.lead);
      add_tile(tile, scales, fresh(K), totals);
      sync_warp();
    }
  }

  static DELTACONV_DEVICE void add_tile(const WeightTile<T, Band>& tile, const TileScales<Band>& scales, int K,
                                        float* totals) {
    const float scale = scales.largest();
    GradFragments<Band> grads = tile.load_grads();
    if constexpr (std::is_same_v<T, Half>) {
      rescale(scales, scale, grads);
    }
    add_bias(grads, scale, totals + K * weight_column(K));
    const int groups = (K + Band::kMostRows - 1) / Band::kMostRows;
    DELTACONV_NO_UNROLL
    for (int i = 0; i < groups; ++i) {
      const int begin = K * i / groups;
      with_rows<Band::kMostRows>(K * (i + 1) / groups - begin, [&](auto count) {
        constexpr int kRows = decltype(count)::value;
        WeightSums<Band, kRows> sums;
        tile.template add_to<kRows>(sums, grads, begin);
        add_rows(sums, K, scale, totals + begin);
      });
    }
  }

  // Writes the totals of the CTA's channels, [K * K + 1][C]. A warp takes a kernel column, a lane a kernel row; these
  // lie side by side in shared memory. The bias is the only row of column K.
  static DELTACONV_DEVICE void store_totals(const float* totals, int K, int64_t C, int32_t first_channel, float* to) {
    const int warps = thread_count() / kWarp, pitch = weight_totals(K), row = lane_index();
    const bool vectors = C % 4 == 0 && reinterpret_cast<uintptr_t>(to) % 16 == 0;
    DELTACONV_NO_UNROLL
    for (int col = warp_index(); col <= K; col += warps) {
      if (row >= (col < K ? K : 1)) continue;
      const float* from = totals + col * weight_column(K) + row;
      float* tap = to + (col < K ? row * K + col : K * K) * C;
      DELTACONV_NO_UNROLL
      for (int64_t channel = first_channel; channel < first_channel + warps && channel < C; channel += 4) {
        float sums[4];
        DELTACONV_UNROLL
        for (int n = 0; n < 4; ++n, from += pitch) sums[n] = *from;
        if (vectors) {
          store16_global(tap + channel, pack<float>(sums));
        } else {
          DELTACONV_UNROLL
          for (int n = 0; n < 4; ++n) {
            if (channel + n < C) tap[channel + n] = sums[n];
          }
        }
      }
    }
  }

  template <int kRows, class Visit>
  static DELTACONV_DEVICE void with_rows(int rows, const Visit& visit) {
    if constexpr (kRows > Band::kLeastRows) {
      if (rows < kRows) return with_rows<kRows - 1>(rows, visit);
    }
    visit(std::integral_constant<int, kRows>());
  }

  // Adds the sum of all gradients, which is a product with ones.
  static DELTACONV_DEVICE void add_bias(const GradFragments<Band>& grads, float scale, float* total) {
    const uint32_t ones = pack_pair<T>(1.0f, 1.0f);
    Accumulator sum = {};
    DELTACONV_UNROLL
    for (int b = 0; b < Band::kFragments; ++b) {
      DELTACONV_UNROLL
      for (int s = 0; s < 2; ++s) {
        multiply_add<T>(sum, {{ones, ones}}, {{ones, ones}}, grads.words[b][s][0], grads.words[b][s][1]);
      }
    }
    float value = sum.values[0] + sum.values[1];
    value += shuffle_xor(value, 1);
    value += shuffle_xor(value, 2);
    if (fresh_lane_index() == 0) *total += value * scale;
  }

  // Adds the diagonals of the bands to the taps' totals, 4 kernel rows at a time.
  template <int kRows, int kFirst = 0>
  static DELTACONV_DEVICE void add_rows(const WeightSums<Band, kRows>& sums, int K, float scale, float* totals) {
    constexpr int kCount = kRows - kFirst < 4 ? kRows - kFirst : 4;
    BandValues<Band::kBand> rows[kCount];
    DELTACONV_UNROLL
    for (int h = 0; h < kCount; ++h) rows[h] = sums.row(kFirst + h);
    const int lane = fresh_lane_index(), g = lane / 4, q = lane % 4;
    const BandColumn<Band::kBand> taps = sum_diagonals(rows, lane);
    const int column = weight_column(K);
    float* to = totals + (g - 2 * q) * column + kFirst + q;
    DELTACONV_UNROLL
    for (int b = 0; b < Band::kBand; ++b, to += 8 * column) {
      const int tap = 8 * b + g - 2 * q;
      if (q >= kCount || static_cast<uint32_t>(tap) >= static_cast<uint32_t>(K)) continue;
      *to += taps.values[b] * scale;
    }
    if constexpr (kFirst + kCount < kRows) add_rows<kRows, kFirst + kCount>(sums, K, scale, totals);
  }
};

}  // namespace deltaconv::cuda::tensor_cores

// The weight gradient's products of one tile, by one warp: from shared memory to sums in registers. kernel.h
// explains the mapping.
#pragma once

#include "cuda/device/mma.h"
#include "cuda/tensor_cores/weight/diagonals.h"
#include "cuda/tensor_cores/weight/planes.h"

namespace deltaconv::cuda::tensor_cores {

// The gradients of a tile in registers: words[b][s] are both halves of B for fragment b of 8 columns and rows
// of parity s.
template <class Band>
struct GradFragments {
  uint32_t words[Band::kFragments][2][2];
};

// Sums of kRows kernel rows, a band each. Where kBand is odd, the last fragments of two kernel rows share a product.
template <class Band, int kRows>
struct WeightSums {
  static constexpr int kWhole = Band::kBand / 2;
  static constexpr bool kOdd = Band::kBand % 2 == 1;
  Accumulator whole[kRows][kWhole] = {};
  Accumulator last[kOdd ? (kRows + 1) / 2 : 1] = {};

  // The band of kernel row h.
  DELTACONV_DEVICE BandValues<Band::kBand> row(int h) const {
    BandValues<Band::kBand> values;
    DELTACONV_UNROLL
    for (int b = 0; b < Band::kBand; ++b) {
      DELTACONV_UNROLL
      for (int e = 0; e < 2; ++e) {
        values.values[b][e] =
            b / 2 < kWhole ? whole[h][b / 2].values[b % 2 * 2 + e] : last[h / 2].values[h % 2 * 2 + e];
      }
    }
    return values;
  }
};

// Brings all cells of a tile to the scale `largest`. Scales are powers of two.
template <class Band>
DELTACONV_DEVICE void rescale(const TileScales<Band>& scales, float largest, GradFragments<Band>& grads) {
  constexpr uint32_t kTwiceOne = 254u << 23;  // minus the bits of a power of two: the bits of its inverse
  const float inverse = bits_to_float(kTwiceOne - float_to_bits(largest));
  DELTACONV_UNROLL
  for (int cell = 0; cell < Band::kFragments; ++cell) {
    const float by = scales.scale(cell) * inverse;
    if (by == 1.0f) continue;
    DELTACONV_UNROLL
    for (int i = 0; i < 4; ++i) {
      uint32_t& word = grads.words[cell / 2 * 2 + i / 2][i % 2][cell % 2];
      const float low = to_float(Half{static_cast<uint16_t>(word)}) * by;
      const float high = to_float(Half{static_cast<uint16_t>(word >> 16)}) * by;
      word = pack_pair<Half>(low, high);
    }
  }
}

// One tile in shared memory, as its warp sees it.
template <class T, class Band>
class WeightTile {
 public:
  DELTACONV_DEVICE WeightTile(const T* inputs, const T* grads, int input_rows, bool joined, int K, int lead)
      : rows_of_parity_(input_rows / 2),
        half_((joined ? kHalfRows : half_input_rows(K)) / 2 * Band::kPitch),
        inputs_(inputs + fresh_lane_index() % 8 * Band::kPitch),
        grads_(grads + fresh_lane_index() % 4 * 2 * Band::kGradPitch + fresh_lane_index() / 4 + lead) {}

  DELTACONV_DEVICE GradFragments<Band> load_grads() const {
    GradFragments<Band> fragments;
    DELTACONV_UNROLL
    for (int b = 0; b < Band::kFragments; ++b) {
      DELTACONV_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int s = i / 2, half = i % 2;
        const T* from = grads_ + (s * kHalfRows + half * kHalfRows / 2) * Band::kGradPitch + 8 * b;
        fragments.words[b][s][half] = join_bits(from[0].bits, from[Band::kGradPitch].bits);
      }
    }
    return fragments;
  }

  // Adds what kernel rows first_row to first_row + kRows - 1 get from the tile.
  template <int kRows>
  DELTACONV_DEVICE void add_to(WeightSums<Band, kRows>& sums, const GradFragments<Band>& grads, int first_row) const {
    const T* rows[2] = {input_row(first_row), input_row(first_row + 1)};  // the first of each parity
    const int offset_two = fresh_lane_index() / 8 % 2 * 8 + fresh_lane_index() / 16 * half_;
    const int offset_one = fresh_lane_index() / 8 % 2 * half_;
    FragmentA inputs[2][Band::kLoads];  // words[i] is 8 rows x 8 columns of half i of the tile
    DELTACONV_UNROLL
    for (int t = 0; t <= kRows; ++t) {
      FragmentA(&now)[Band::kLoads] = inputs[t % 2];
      const T* row = rows[t % 2] + t / 2 * Band::kPitch;
      load_inputs(row + offset_two, row + offset_one, now);
      DELTACONV_UNROLL
      for (int b = 0; b < Band::kFragments; ++b) {
        DELTACONV_UNROLL
        for (int s = 0; s < 2; ++s) {
          const int h = t - s;
          if (h < 0 || h >= kRows) continue;
          DELTACONV_UNROLL
          for (int w = 0; w < Band::kBand / 2; ++w) {
            multiply(sums.whole[h][w], now[b + 2 * w], now[b + 2 * w + 1], grads.words[b][s]);
          }
          if (Band::kBand % 2 == 0 || (h % 2 == 0 && h + 1 < kRows)) continue;
          constexpr int kLast = Band::kBand - 1;
          multiply(sums.last[h / 2], inputs[(t - h % 2) % 2][b + kLast], now[b + kLast], grads.words[b][s]);
        }
      }
    }
  }

 private:
  DELTACONV_DEVICE const T* input_row(int row) const {
    return inputs_ + (row % 2 * rows_of_parity_ + row / 2) * Band::kPitch;
  }

  // Loads two fragments at a time: the four registers of an operand of both, in their order.
  static DELTACONV_DEVICE void load_inputs(const T* two, const T* one, FragmentA (&fragments)[Band::kLoads]) {
    DELTACONV_UNROLL
    for (int c = 0; c + 1 < Band::kLoads; c += 2) {
      FragmentA upper_rows, lower_rows;
      load_fragments_transposed(two + 8 * c, upper_rows, lower_rows);
      fragments[c] = {{upper_rows.words[0], lower_rows.words[0]}};
      fragments[c + 1] = {{upper_rows.words[1], lower_rows.words[1]}};
    }
    if constexpr (Band::kLoads % 2 == 1) {
      load_fragment_transposed(one + 8 * (Band::kLoads - 1), fragments[Band::kLoads - 1]);
    }
  }

  static DELTACONV_DEVICE void multiply(Accumulator& sum, const FragmentA& upper, const FragmentA& lower,
                                        const uint32_t (&grads)[2]) {
    multiply_add<T>(sum, {{upper.words[0], lower.words[0]}}, {{upper.words[1], lower.words[1]}}, grads[0], grads[1]);
  }

  int rows_of_parity_, half_;
  const T *inputs_, *grads_;
};

}  // namespace deltaconv::cuda::tensor_cores

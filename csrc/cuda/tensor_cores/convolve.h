// The convolution on tensor cores by a banded matrix. For each channel, with P the zero-padded plane and w the filter,
// the results of 8 neighbouring columns are a sum over kernel rows kh: 16 rows of P times a banded (Toeplitz) matrix T
// with T[k][n] = w[kh][k - n], added up in the same accumulators. Products are exact and sums are float32.
// docs/cuda/tensor_cores.md has a picture.
//
//   K = 3, one kernel row a b c      n = 0  1  2  3  4  5  6  7
//                           k = 0        a  .  .  .  .  .  .  .
//                           k = 1        b  a  .  .  .  .  .  .
//                           k = 2        c  b  a  .  .  .  .  .
//                           k = 3        .  c  b  a  .  .  .  .     and so on, to k = 9
//
// Columns. T is K + 7 high, in kBand fragments of 8 rows. A fragment of A is 8 columns of the plane; it serves the
// results of kBand neighbouring column fragments.
//
// Rows. Row m of accumulator i is row m * kStep + i of the tile. The A that is made of the plane's rows m * kStep + t
// therefore serves every accumulator i and kernel row kh with i + kh = t. A product is 16 deep: 8 columns of rows t,
// and the same 8 columns of rows t + 1. So no fragment is left over whatever kBand is, and an operand is what one
// ldmatrix returns, in four registers aligned to four.
//
// Filter. Lane 4 g + q needs w[kh][n] and w[kh][n + 1] of fragment b of T, with n = 2q - g + 8b: one word of the
// overlapping pairs of taps in shared memory. A warp needs a kernel row once a tile, so that it reads the row when its
// turn comes, and any K needs the registers of three rows only.
#pragma once

#include "cuda/frame/tile.h"
#include "cuda/tensor_cores/fragments.h"
#include "cuda/tensor_cores/load.h"

namespace deltaconv::cuda::tensor_cores {

// The correlation of one plane with one filter, by one warp.
template <class T, class Banded>
class BandedConvolution {
 public:
  DELTACONV_DEVICE BandedConvolution(const T* plane, const uint32_t* filter, int K)
      : BandedConvolution(plane, filter, K, fresh_lane_index()) {}

  DELTACONV_DEVICE void add_to(BandedSums<Banded>& sums) const {
    Band before = {};  // kernel row t - 1
    add_rows<true, false>(0, before, sums);
    DELTACONV_NO_UNROLL
    for (int t = 2; t + 1 < K_; t += 2) add_rows<false, false>(t, before, sums);
    add_rows<false, true>(K_ - 1, before, sums);
  }

 private:
  static constexpr int kStep = Banded::kStep, kFragments = Banded::kFragments, kBand = Banded::kBand;
  static_assert(kStep <= 2);
  using Band = uint32_t[kBand];

  DELTACONV_DEVICE BandedConvolution(const T* plane, const uint32_t* filter, int K, int lane)
      : K_(K),
        rows_(plane + (lane % 16 + lane / 16 * Banded::stored_row(1, K)) * Banded::kPitch),
        first_tap_(lane % 4 * 2 - lane / 4),
        filter_(filter + first_tap_ + 1) {}

  // Adds the products of the plane's rows m * kStep + t and m * kStep + t + 1, t even. Accumulators 0 take kernel rows
  // t and t + 1, accumulators 1 take t - 1 and t. The first pair has no kernel row t - 1, the last pair no t + 1.
  template <bool kFirst, bool kLast>
  DELTACONV_DEVICE void add_rows(int t, Band& before, BandedSums<Banded>& sums) const {
    Band here, after = {};
    load_band(t, here);
    if constexpr (!kLast) load_band(t + 1, after);
    const T* row = rows_ + t / kStep * Banded::kPitch;
    FragmentA a[Banded::kLoads][2];  // those of rows t and t + 1
    DELTACONV_UNROLL
    for (int c = 0; c < Banded::kLoads; ++c) {
      if constexpr (kStep == 1 && kLast) {
        load_fragment(row + 8 * c, a[c][0]);
      } else {
        load_fragments(row + 8 * c, a[c][0], a[c][1]);
      }
    }
    // Two columns of accumulators take turns: enough that products do not wait for each other, and few fragments of
    // A at once.
    static_assert(kFragments % 2 == 0);
    DELTACONV_UNROLL
    for (int n = 0; n < kFragments * kBand; ++n) {
      const int c = n / (2 * kBand) * 2 + n % 2, b = n / 2 % kBand;
      const FragmentA(&fragment)[2] = a[c + b];
      if constexpr (kLast) {
        multiply_add<T>(sums[0][c], fragment[0], here[b]);
      } else {
        multiply_add<T>(sums[0][c], fragment[0], fragment[1], here[b], after[b]);
      }
      if constexpr (kStep == 1) continue;
      if constexpr (kFirst) {
        multiply_add<T>(sums[kStep - 1][c], fragment[1], here[b]);
      } else {
        multiply_add<T>(sums[kStep - 1][c], fragment[0], fragment[1], before[b], here[b]);
      }
    }
    DELTACONV_UNROLL
    for (int b = 0; b < kBand; ++b) before[b] = after[b];
  }

  DELTACONV_DEVICE void load_band(int kernel_row, Band& band) const {
    const uint32_t* row = filter_ + kernel_row * (K_ + 1);
    DELTACONV_UNROLL
    for (int b = 0; b < kBand; ++b) {
      const int tap = first_tap_ + 8 * b;
      band[b] = -1 <= tap && tap < K_ ? row[8 * b] : 0;
    }
  }

  int K_;
  const T* rows_;           // this lane's row of the first ldmatrix
  int first_tap_;           // 2q - g
  const uint32_t* filter_;  // the pair that begins with first_tap_, in kernel row 0
};

// Whether this warp loads (or multiplies) in this step. Where a warp has one pair alone, the CTA loads v's planes while
// the tensor cores work on u's: half of the warps of each scheduler load before they multiply, the others after.
DELTACONV_DEVICE bool loads_at(int step) {
  constexpr int kSchedulers = 4;
  return fresh(thread_index()) / kWarp / kSchedulers % 2 == step;
}

template <class T, class Banded>
DELTACONV_DEVICE void load_half(const Problem<T>& problem, const Tile& tile, int half, std::byte* planes) {
  const Stage& stage = problem.stages.at[tile.stage];
  const auto source = source_of(problem.x, problem.sizes, tile.image, tile.channel, kBandedPairs, problem.vectors,
                                stage.rows, stage.cols);
  load_planes<T, Banded>(source, half, tile.row, tile.col, fresh(static_cast<int>(problem.sizes.K)), planes);
}

// Loads the filters and the first `halves` halves of the planes, u's first; all these loads are in flight together.
template <class T, class Banded>
DELTACONV_DEVICE void load_first(const Problem<T>& problem, const Tile& tile, int halves, std::byte* planes,
                                 uint32_t* filters) {
  const auto K = static_cast<int>(problem.sizes.K);
  const int32_t stage = problem.stages.at[tile.stage].index;
  const auto from = filter_source(problem.weight, problem.sizes, stage, tile.channel, kBandedPairs, problem.vectors);
  FilterRow<T, Banded> row(from, K);
  row.fetch(warp_index());
  DELTACONV_NO_UNROLL
  for (int half = 0; half < halves; ++half) load_half<T, Banded>(problem, tile, half, planes);
  row.store(warp_index(), filters);
  load_filters<T, Banded>(from, warp_index() + thread_count() / kWarp, K, filters);
}

// The convolution, with bias, of one half of the CTA's channel pair c. `pair` is the pair's planes; `filters` is u's
// filter, which v's filter follows.
template <class T, class Banded>
DELTACONV_DEVICE void convolve_half(const Problem<T>& problem, const Tile& tile, int c, int half, const std::byte* pair,
                                    const uint32_t* filters, BandedSums<Banded>& sums) {
  const Sizes& sizes = problem.sizes;
  const int K = fresh(static_cast<int>(sizes.K));
  const int64_t channel = problem.stages.at[tile.stage].index * sizes.C + half * (sizes.C / 2) + tile.channel + c;
  const T bias = problem.bias ? problem.bias[channel] : T{};  // the load is in flight during the products
  const T* plane = reinterpret_cast<const T*>(pair) + half * Banded::plane_elements(K);
  DELTACONV_UNROLL
  for (auto& row : sums) {
    DELTACONV_UNROLL
    for (Accumulator& sum : row) sum = {};
  }
  BandedConvolution<T, Banded>(plane, filters + half * Banded::filter_words(K), K).add_to(sums);
  DELTACONV_UNROLL
  for (auto& row : sums) {
    DELTACONV_UNROLL
    for (Accumulator& sum : row) {
      DELTACONV_UNROLL
      for (float& value : sum.values) value += to_float(bias);
    }
  }
}

// The convolution of one half of channel pair c, from the planes and filters of the whole CTA.
template <class T, class Banded>
DELTACONV_DEVICE void convolve_pair_half(const Problem<T>& problem, const Tile& tile, int c, int half,
                                         const std::byte* planes, BandedSums<Banded>& sums) {
  const int K = fresh(static_cast<int>(problem.sizes.K)), slot = banded_slot(fresh(c));
  const std::byte* filters = planes + kBandedPairs * Banded::pair_bytes(K) + slot * 2 * Banded::filter_words(K) * 4;
  convolve_half<T, Banded>(problem, tile, c, half, planes + slot * Banded::pair_bytes(K),
                           reinterpret_cast<const uint32_t*>(filters), sums);
}

}  // namespace deltaconv::cuda::tensor_cores

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

#include <utility>

#include "cuda/frame/tile.h"
#include "cuda/tensor_cores/fragments.h"
#include "cuda/tensor_cores/load.h"

namespace deltaconv::cuda::tensor_cores {

// The correlation of one plane with one filter, by one warp.
template <class T, class Banded>
class BandedConvolution {
 public:
  // `shift`: columns of the plane before the first that the kernel reads; K + 7 + shift <= 8 kBand.
  DELTACONV_DEVICE BandedConvolution(const T* plane, const uint32_t* filter, int K, int shift = 0)
      : BandedConvolution(plane, filter, K, shift, fresh_lane_index()) {}

  // Sets `sums` to the correlation plus `addend`.
  DELTACONV_DEVICE void sum_to(float addend, BandedSums<Banded>& sums) const {
    DELTACONV_UNROLL
    for (auto& row : sums) {
      DELTACONV_UNROLL
      for (Accumulator& sum : row) sum = {{addend, addend, addend, addend}};
    }
    Bands bands = {};
    const T* row = rows_;
    const uint32_t* taps = filter_;
    add_rows<true, false>(row, taps, bands, sums);
    DELTACONV_NO_UNROLL
    for (int pairs = K_ / 2 - 1; pairs > 0; --pairs) {
      row += kPairStep;
      taps += 2 * (K_ + 1);
      add_rows<false, false>(row, taps, bands, sums);
    }
    add_rows<false, true>(row + kPairStep, taps + 2 * (K_ + 1), bands, sums);
  }

 private:
  static constexpr int kStep = Banded::kStep, kFragments = Banded::kFragments, kBand = Banded::kBand;
  static_assert(kStep <= 2);
  static constexpr int kPairStep = 2 / kStep * Banded::kPitch;  // from row t to row t + 2 of the plane
  using Band = uint32_t[kBand];
  struct Bands {
    Band before, here, after;  // kernel rows t - 1, t and t + 1
  };

  DELTACONV_DEVICE BandedConvolution(const T* plane, const uint32_t* filter, int K, int shift, int lane)
      : K_(K),
        rows_(plane + (lane % 16 + lane / 16 * Banded::stored_row(1, K)) * Banded::kPitch),
        first_tap_(lane % 4 * 2 - lane / 4 - shift),
        filter_(filter + first_tap_ + 1) {
    DELTACONV_UNROLL
    for (int b = 0; b < kBand; ++b) has_taps_[b] = -1 <= first_tap_ + 8 * b && first_tap_ + 8 * b < K;
  }

  // Adds the products of the plane's rows m * kStep + t and m * kStep + t + 1, t even. Accumulators 0 take kernel rows
  // t and t + 1, accumulators 1 take t - 1 and t. The first pair has no kernel row t - 1, the last pair no t + 1.
  template <bool kFirst, bool kLast>
  DELTACONV_DEVICE void add_rows(const T* row, const uint32_t* taps, Bands& bands, BandedSums<Banded>& sums) const {
    auto& [before, here, after] = bands;
    load_band(taps, here);
    if constexpr (!kLast) load_band(taps + K_ + 1, after);
    FragmentA a[Banded::kLoads][2];  // those of rows t and t + 1
    load_columns<kStep == 1 && kLast>(row, a, std::make_integer_sequence<int, Banded::kLoads>());
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

  // Loads fragments of 8 columns, with kFirstAlone those of the first row only.
  template <bool kFirstAlone, int... kColumns>
  static DELTACONV_DEVICE void load_columns(const T* row, FragmentA (&a)[Banded::kLoads][2],
                                            std::integer_sequence<int, kColumns...>) {
    if constexpr (kFirstAlone) {
      (load_fragment(row + 8 * kColumns, a[kColumns][0]), ...);
    } else {
      (load_fragments<16 * kColumns>(row, a[kColumns][0], a[kColumns][1]), ...);
    }
  }

  // Fragments without taps of this lane keep their zeros.
  DELTACONV_DEVICE void load_band(const uint32_t* taps, Band& band) const {
    DELTACONV_UNROLL
    for (int b = 0; b < kBand; ++b) {
      if (has_taps_[b]) band[b] = taps[8 * b];
    }
  }

  int K_;
  const T* rows_;           // this lane's row of the first ldmatrix
  int first_tap_;           // 2q - g - shift
  const uint32_t* filter_;  // the pair that begins with first_tap_, in kernel row 0
  bool has_taps_[kBand];    // whether a pair of fragment b holds a tap
};

// Whether this warp loads (or multiplies) in this step. Where a warp has one pair alone, the CTA loads v's planes while
// the tensor cores work on u's: half of the warps of each scheduler load before they multiply, the others after.
DELTACONV_DEVICE bool loads_at(int step) {
  constexpr int kSchedulers = 4;
  return warp_of(fresh(thread_index())) / kSchedulers % 2 == step;
}

template <class T, class Banded>
DELTACONV_DEVICE void load_half(const Problem<T>& problem, const Tile& tile, int half, std::byte* planes) {
  const Stage& stage = problem.stages.at[tile.stage];
  const auto source = source_of(problem.x, problem.sizes, tile.image, tile.channel, kBandedPairs, problem.vectors,
                                stage.rows, stage.cols);
  load_planes<T, Banded>(source, half, tile.row, tile.col, fresh(static_cast<int>(problem.sizes.K)), planes);
}

// Loads the filters and the biases, and meanwhile what load() loads: all of it is in flight together.
template <class T, class Banded, class Load>
DELTACONV_DEVICE void load_filters_and(const Problem<T>& problem, const Tile& tile, uint32_t* filters,
                                       const Load& load) {
  const auto K = static_cast<int>(problem.sizes.K);
  const int32_t stage = problem.stages.at[tile.stage].index;
  const auto from = filter_source(problem.weight, problem.sizes, stage, tile.channel, kBandedPairs, problem.vectors);
  FilterRow<T, Banded> row(from, K);
  row.fetch(warp_index());
  const Biases<T, Banded> biases(problem.bias, problem.sizes, stage, tile.channel);
  load();
  row.store(warp_index(), filters);
  load_filters<T, Banded>(from, warp_index() + thread_count() / kWarp, K, filters);
  biases.store(K, filters);
}

// Loads the filters, the biases and the first `halves` halves of the planes, u's first, all in flight together.
template <class T, class Banded>
DELTACONV_DEVICE void load_first(const Problem<T>& problem, const Tile& tile, int halves, std::byte* planes,
                                 uint32_t* filters) {
  load_filters_and<T, Banded>(problem, tile, filters, [&] {
    DELTACONV_NO_UNROLL
    for (int half = 0; half < halves; ++half) load_half<T, Banded>(problem, tile, half, planes);
  });
}

// The convolution, with bias, of one half of channel pair c, from the planes and filters of the whole CTA, with
// the shift of BandedConvolution.
template <class T, class Banded>
DELTACONV_DEVICE void convolve_pair_half(const Problem<T>& problem, int c, int half, const std::byte* planes,
                                         BandedSums<Banded>& sums, int shift = 0) {
  const int K = fresh(static_cast<int>(problem.sizes.K)), slot = banded_slot(fresh(c));
  const auto* filters = reinterpret_cast<const uint32_t*>(planes + kBandedPairs * Banded::pair_bytes(K));
  const uint32_t* filter = filters + (2 * slot + half) * Banded::filter_words(K);
  const T* plane = reinterpret_cast<const T*>(planes + slot * Banded::pair_bytes(K)) + half * Banded::plane_elements(K);
  BandedConvolution<T, Banded>(plane, filter, K, shift).sum_to(bits_to_float(filter[Banded::bias_word(K)]), sums);
}

}  // namespace deltaconv::cuda::tensor_cores

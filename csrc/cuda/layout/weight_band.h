// How the weight gradient's kernel on tensor cores divides its work: facts that the plan and the kernel share.
// tensor_cores/weight/kernel.h explains the mapping to matrix products.
//
// A warp takes one channel of one partition of the stage's tiles. The shared memory of a CTA holds two buffers for each
// warp, one of which is filled while the other is used; then a note for each warp of where its planes are; then the
// sums of each warp's taps.
//
//   buffer  inputs  [input_rows][kPitch] of T: the zero-padded plane, from K / 2 left of the tile on
//           grads   [kRows][kGradPitch] of T; the first column of the tile is element `lead` (backward_workspace.h)
//   sums    [K][weight_column(K)] float32, kernel columns of the taps, and the bias: multiples of 16 bytes
//
// Rows of equal parity lie side by side, and pitches are odd numbers of 16 bytes: the 8 rows of a matrix that ldmatrix
// reads lie in different groups of 4 banks.
//
//   8 rows of gradients in a buffer, by their number in the tile:    0  2  4  6  1  3  5  7
#pragma once

#include "cuda/layout/band.h"
#include "cuda/layout/stages.h"

namespace deltaconv::cuda::tensor_cores {

// Threads of the largest CTA, and registers of a thread. Two CTAs of 256 threads fill the 65536 registers
// of a multiprocessor.
inline constexpr int kWeightBandThreads = 256, kWeightBandRegisters = 128;

// Rows of half a tile. The halves of a tile are neighbours in one image, or belong to two images.
inline constexpr int kHalfRows = 16;

template <int kBandFragments, int kColFragments>
struct WeightBand {
  static constexpr int kBand =
      kBandFragments;  // fragments of 8 columns that 8 columns of gradients meet: K + 7 columns
  static constexpr int kFragments = kColFragments;

  static constexpr int kRows = 2 * kHalfRows, kCols = 8 * kFragments;
  static constexpr int kLoads = kFragments + kBand - 1;  // fragments of 8 columns in a row of inputs
  static constexpr int kPitch = 8 * (kLoads | 1), kGradPitch = 8 * ((kFragments + 1) | 1);

  // A warp sums this many kernel rows at most at a time; the other kernel rows take another turn. More rows would need
  // registers for their sums and save one in ten reads of inputs.
  static constexpr int kMostRows = kBand == 4 ? 4 : 5, kLeastRows = 3;

  static DELTACONV_ANYWHERE int64_t buffer_bytes(int input_rows) {
    return 2 * (int64_t{input_rows} * kPitch + kRows * kGradPitch);
  }
};

inline constexpr int kChannelPlanesBytes = 88;  // size of a warp's note of where its planes are

// Floats of a kernel column in the sums, of which the first K are taps: an odd multiple of 4, so that the lanes of a
// warp, who add taps of 8 kernel columns and 4 kernel rows at a time, meet different banks.
DELTACONV_ANYWHERE int weight_column(int K) { return (K + 3) / 8 * 8 + 4; }
// Floats of the sums of a channel.
DELTACONV_ANYWHERE int weight_totals(int K) { return K * weight_column(K) + 4; }

// Rows of inputs that a half tile meets, and a whole tile. Both numbers are even.
DELTACONV_ANYWHERE int half_input_rows(int K) { return kHalfRows + K - 1; }
DELTACONV_ANYWHERE int joined_input_rows(int K) { return 2 * kHalfRows + K - 1; }

// Calls visit with each tile that there is a kernel of for this K.
template <class Visit>
void for_each_weight_band(int64_t K, const Visit& visit) {
  with_band(K, [&](auto band) {
    constexpr int kBand = decltype(band)::value;
    visit(WeightBand<kBand, 2>());
    visit(WeightBand<kBand, 4>());
  });
}

}  // namespace deltaconv::cuda::tensor_cores

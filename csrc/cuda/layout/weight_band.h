// How the weight gradient's kernel of tensor cores lays out its work: facts that the plan and the kernel
// share. The mapping itself is in tensor_cores/weight/kernel.h.
//
// A warp takes one channel of a partition of the stage's tiles. The block's shared memory: for each warp two
// buffers, one of which is filled while the other is used; then where its planes are; then the sums of its
// taps.
//
//   inputs  [input_rows][kPitch] of T: the zero-padded plane, from K / 2 left of the tile on
//   grads   [kRows][kGradPitch] of T, the tile's first column is element `lead` (backward_workspace.h)
//   totals  [K * K + 1 | 1] float32, the last tap is the bias
//
// Rows of equal parity lie side by side, and pitches are odd numbers of 16 bytes: the 8 rows of a matrix that
// ldmatrix reads lie in different groups of 4 banks.
#pragma once

#include "cuda/layout/stages.h"

namespace deltaconv::cuda {

// Registers of a thread: blocks of up to 256 threads, two of the largest fill a multiprocessor's 65536.
inline constexpr int kWeightBandThreads = 256, kWeightBandRegisters = 128;

// Rows of a half tile. The halves of a tile are neighbours in an image, or belong to two images.
inline constexpr int kHalfRows = 16;

template <int kBandBlocks, int kColBlocks>
struct WeightBand {
  static constexpr int kBand = kBandBlocks;  // blocks of 8 columns that 8 columns of gradients meet: K + 7
  static constexpr int kBlocks = kColBlocks;

  static constexpr int kRows = 2 * kHalfRows, kCols = 8 * kBlocks;
  static constexpr int kLoads = kBlocks + kBand - 1;  // blocks of 8 columns in a row of inputs
  static constexpr int kPitch = 8 * (kLoads | 1), kGradPitch = 8 * ((kBlocks + 1) | 1);

  // Kernel rows that a warp keeps sums of at a time; the others take another turn. More would need registers
  // for their sums and save one in ten reads of inputs.
  static constexpr int kMostRows = kBand == 4 ? 4 : 5, kLeastRows = 3;

  static DELTACONV_ANYWHERE int64_t buffer_bytes(int input_rows) {
    return 2 * (int64_t{input_rows} * kPitch + kRows * kGradPitch);
  }
};

inline constexpr int kChannelPlanesBytes = 88;  // what a warp notes of where its planes are

DELTACONV_ANYWHERE int weight_totals(int K) { return (K * K + 1) | 1; }

// Rows of inputs that a half tile meets, and a whole one. Both are even.
DELTACONV_ANYWHERE int half_input_rows(int K) { return kHalfRows + K - 1; }
DELTACONV_ANYWHERE int joined_input_rows(int K) { return 2 * kHalfRows + K - 1; }

// Calls visit with each tile that there is a kernel of for this K.
template <class Visit>
void for_each_weight_band(int64_t K, const Visit& visit) {
  if (K < 7 || K > 25) return;
  if (K <= 9) {
    visit(WeightBand<2, 2>());
    visit(WeightBand<2, 4>());
  } else if (K <= 17) {
    visit(WeightBand<3, 2>());
    visit(WeightBand<3, 4>());
  } else {
    visit(WeightBand<4, 2>());
    visit(WeightBand<4, 4>());
  }
}

}  // namespace deltaconv::cuda

// How the kernels of tensor cores lay out their work: facts that the plan and the kernels share. The mapping
// itself is in tensor_cores/convolve.h.
//
// Shared memory of a block: the zero-padded planes of its channel pairs, u's and v's side by side, in the
// order of banded_slot; then their filters, likewise; then what is parked.
//
//   plane    [plane_rows][kPitch] of T
//   filter   [K][K + 1] words of two neighbouring taps, (0, w0), (w0, w1) … (wK-1, 0); an odd number of words
//
// Banks. ldmatrix reads 8 rows of 16 bytes at a time. The rows that belong together are stored side by side
// (stored_row), kPitch is an odd number of 16-byte units: the 8 rows lie in 8 different groups of 4 banks.
// Two neighbouring pixels of 8 channels are written to 8 planes by a thread, and the gated results are read
// like that: a warp has 16 neighbouring words of the planes of two channels, e and e + 8, which are
// neighbours in banded_slot's order and whose distance is 64 bytes more than a multiple of 128: 32 different
// banks. A filter's taps are read at up to 14 neighbouring words, and written by 32 lanes an odd number of
// words apart.
#pragma once

#include "cuda/layout/stages.h"

namespace deltaconv::cuda {

// Channel pairs of a block: a sector of 32 bytes of a pixel, in each half of its channels.
inline constexpr int kBandedPairs = 16;

// Registers of a thread: one block of 512 threads or two of 256 fill a multiprocessor's 65536.
inline constexpr int kBandedThreads = 512, kBandedRegisters = 128;

// Where a block keeps what its registers do not hold during the products.
inline constexpr int kParkedBytes = 32;

// The place of the block's channel pair c among the planes.
DELTACONV_ANYWHERE int banded_slot(int c) { return c % 8 * 2 + c / 8; }
static_assert(kBandedPairs == 16);

// What a block computes of a stage's grid: kRows x kCols results of each pair. A warp computes all of a
// channel's at once, as kStep x kBlocks accumulators of 16 x 8.
template <int kBandBlocks, int kRowStep, int kColBlocks>
struct BandedTile {
  static constexpr int kBand = kBandBlocks;  // height of the banded matrix in blocks of 8: K + 7 <= 8 kBand
  static constexpr int kStep = kRowStep;     // row m of accumulator i is row m * kStep + i of the tile
  static constexpr int kBlocks = kColBlocks;

  static constexpr int kRows = 16 * kStep, kCols = 8 * kBlocks;
  static constexpr int kLoads = kBlocks + kBand - 1;  // blocks of 8 columns in a row of the plane
  static constexpr int kPitch = 8 * (kLoads | 1);

  // Gated results wait for those of the other channels where the pair's planes were, as
  // [kRows][kResultPitch] float32. A half warp writes 8 words of 4 rows, kStep apart: 8 banks apart.
  static constexpr int kResultPitch = kCols + 8 / kStep;

  static DELTACONV_ANYWHERE int plane_rows(int K) { return kRows + K - 1; }
  static DELTACONV_ANYWHERE int plane_elements(int K) { return plane_rows(K) * kPitch; }
  static DELTACONV_ANYWHERE int pair_bytes(int K) {
    const int planes = 2 * plane_elements(K) * 2, results = kRows * kResultPitch * 4;
    const int bytes = planes > results ? planes : results;
    return bytes + (64 - bytes % 128 + 128) % 128;
  }
  static DELTACONV_ANYWHERE int filter_words(int K) { return K * (K + 1) | 1; }
  static DELTACONV_ANYWHERE int parked_offset(int K) {
    return kBandedPairs * (pair_bytes(K) + 2 * filter_words(K) * 4);
  }
  static DELTACONV_ANYWHERE int64_t shared_bytes(int K) { return parked_offset(K) + kParkedBytes; }

  // Where row r of the padded plane is stored, and the reverse: rows of equal r % kStep lie side by side.
  static_assert(kStep <= 2);
  static DELTACONV_ANYWHERE int stored_row(int r, int K) { return r % kStep * (plane_rows(K) / kStep) + r / kStep; }
  static DELTACONV_ANYWHERE int plane_row(int stored, int K) {
    const int each = plane_rows(K) / kStep;
    return stored < each ? stored * kStep : (stored - each) * kStep + 1;
  }
};

inline constexpr int kBandedMinKernel = 7, kBandedMaxKernel = 25;

// Calls visit with each tile that there are kernels of for this K.
template <class Visit>
void for_each_banded_tile(int64_t K, const Visit& visit) {
  if (K < kBandedMinKernel || K > kBandedMaxKernel) return;
  if (K <= 9) {
    visit(BandedTile<2, 1, 2>());
    visit(BandedTile<2, 2, 2>());
    visit(BandedTile<2, 2, 4>());
  } else if (K <= 17) {
    visit(BandedTile<3, 1, 2>());
    visit(BandedTile<3, 2, 2>());
    visit(BandedTile<3, 2, 4>());
  } else {
    visit(BandedTile<4, 1, 2>());
    visit(BandedTile<4, 2, 2>());
  }
}

}  // namespace deltaconv::cuda

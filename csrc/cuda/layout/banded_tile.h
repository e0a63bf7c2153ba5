// How the kernels on tensor cores divide their work: facts that the plan and the kernels share. tensor_cores/convolve.h
// explains the mapping of the convolution to matrix products.
//
// The shared memory of a CTA holds the zero-padded planes of its channel pairs, u's plane and v's side by side,
// pairs in the order of banded_slot; then the filters of the pairs in that order, u's and v's side by side;
// then parked values.
//
//   plane    [plane_rows][kPitch] of T
//   filter   [K][K + 1] words, each of two neighbouring taps of a kernel row; then a word with the float32 bias
//
//   a kernel row of K = 3 taps    a  b  c
//   its words                     (0, a)  (a, b)  (b, c)  (c, 0)
//
// Shared memory has 32 banks of 4 bytes. ldmatrix reads 8 rows of 16 bytes at a time; they must lie in 8 different
// groups of 4 banks. Those 8 rows are stored side by side (stored_row), and kPitch is an odd number of 16-byte units.
// The planes of channels e and e + 8 are neighbours in banded_slot's order, and their distance is 64 bytes more than a
// multiple of 128: 64 bytes of one and the same 64 bytes of the other take all banks. So does a thread's run of pixels
// (load.h): neighbouring lanes write 8 columns, 16 bytes, of 4 rows of both planes, and rows lie an odd number of 16
// bytes apart. Gated results are read by 16 bytes, four such of a row of both planes. Taps of a filter are read at up
// to 14 neighbouring words; a warp writes 8 neighbouring words of 4 filters, of which some meet in a bank.
//
//   channel pair c      0   1   2  ...   7   8   9  ...  15
//   banded_slot(c)      0   2   4  ...  14   1   3  ...  15
#pragma once

#include "cuda/device/types.h"
#include "cuda/layout/band.h"
#include "cuda/layout/stages.h"

namespace deltaconv::cuda::tensor_cores {

// Channel pairs of a CTA: in each half of its channels, a pixel has 32 bytes of them, one sector.
inline constexpr int kBandedPairs = 16;

// Threads of the largest CTA, and registers of a thread. One CTA of 512 threads or two of 256 fill the 65536 registers
// of a multiprocessor.
inline constexpr int kBandedThreads = 512, kBandedRegisters = 128;

// Bytes of shared memory where a CTA parks values that its registers cannot hold during the products.
inline constexpr int kParkedBytes = 32;

// The position of the CTA's channel pair c among the planes.
DELTACONV_ANYWHERE int banded_slot(int c) {
  const auto pair = static_cast<unsigned>(c);
  return static_cast<int>(pair % 8 * 2 + pair / 8);
}
static_assert(kBandedPairs == 16);

// How far apart planes of so many bytes are stored: 64 bytes more than a multiple of 128.
DELTACONV_ANYWHERE int plane_distance(int bytes) {
  return static_cast<int>(static_cast<unsigned>(bytes + 63) / 128 * 128) + 64;
}

// A CTA computes kRows x kCols results of each channel pair on a stage's grid. A warp computes all of one channel's
// results at once, in kStep x kFragments accumulators of 16 x 8.
template <int kBandFragments, int kRowStep, int kColFragments>
struct BandedTile {
  static constexpr int kBand = kBandFragments;  // height of the banded matrix in fragments of 8 rows: K + 7 <= 8 kBand
  static constexpr int kStep = kRowStep;        // row m of accumulator i is row m * kStep + i of the tile
  static constexpr int kFragments = kColFragments;

  static constexpr int kRows = 16 * kStep, kCols = 8 * kFragments;
  static constexpr int kLoads = kFragments + kBand - 1;  // fragments of 8 columns in a row of the plane
  static constexpr int kPitch = 8 * (kLoads | 1);

  // The kernel sizes of these tiles.
  static constexpr int kMostKernel = 8 * kBand - 7;
  static constexpr int kLeastKernel = kMostKernel - 6 < kSmallestKernel ? kSmallestKernel : kMostKernel - 6;

  // How a warp copies a window: 16 bytes a lane, kCopiedLanes lanes to a row, kCopiedRows rows of equal parity, which
  // are stored side by side, at a time; so that many times that it is enough for any K.
  static constexpr int kCopiedLanes = kLoads % 2 == 1 ? kLoads : (kLoads + 3) / 4 * 4;
  static constexpr int kCopiedRows = kWarp / kCopiedLanes;
  static constexpr int kCopies = ((kRows + kMostKernel - 1) / kStep + kCopiedRows - 1) / kCopiedRows;

  // Gated results wait for those of the other channels where the pair's planes were, as [kRows][kResultPitch] float32.
  // Half a warp, which stores of 8 bytes take at a time, writes 8 words to each of 4 rows that are kStep apart: these
  // rows are 8 banks apart.
  static constexpr int kResultPitch = kCols + 8 / kStep;

  static constexpr DELTACONV_ANYWHERE int plane_rows(int K) { return kRows + K - 1; }
  static constexpr DELTACONV_ANYWHERE int parity_rows(int K) {
    return static_cast<int>(static_cast<unsigned>(plane_rows(K)) / kStep);
  }
  static DELTACONV_ANYWHERE int plane_elements(int K) { return plane_rows(K) * kPitch; }
  static DELTACONV_ANYWHERE int pair_bytes(int K) {
    const int planes = 2 * plane_elements(K) * 2, results = kRows * kResultPitch * 4;
    return plane_distance(planes > results ? planes : results);
  }
  static DELTACONV_ANYWHERE int bias_word(int K) { return K * (K + 1); }
  // K (K + 1) is even, so that filters are an odd number of words apart.
  static DELTACONV_ANYWHERE int filter_words(int K) { return bias_word(K) + 1; }
  static DELTACONV_ANYWHERE int parked_offset(int K) {
    return kBandedPairs * (pair_bytes(K) + 2 * filter_words(K) * 4);
  }
  static DELTACONV_ANYWHERE int64_t shared_bytes(int K) { return parked_offset(K) + kParkedBytes; }

  // Row r of the padded plane is stored at stored_row(r, K), and plane_row is the inverse. Rows of equal r % kStep lie
  // side by side.
  //
  //   8 rows, kStep = 2
  //   row r         0  1  2  3  4  5  6  7
  //   stored at     0  4  1  5  2  6  3  7
  static_assert(kStep <= 2);
  static DELTACONV_ANYWHERE int stored_row(int r, int K) { return r % kStep * parity_rows(K) + r / kStep; }
  static DELTACONV_ANYWHERE int plane_row(int stored, int K) {
    const int each = parity_rows(K);
    return stored < each ? stored * kStep : (stored - each) * kStep + 1;
  }
};

// Calls visit with each tile that there are kernels of for this K.
template <class Visit>
void for_each_banded_tile(int64_t K, const Visit& visit) {
  with_band(K, [&](auto band) {
    constexpr int kBand = decltype(band)::value;
    visit(BandedTile<kBand, 1, 2>());
    visit(BandedTile<kBand, 2, 2>());
    if constexpr (kBand < 4) visit(BandedTile<kBand, 2, 4>());
  });
}

// Calls visit with the tile that a stage is cut into.
template <class Visit>
void with_banded_tile(int64_t K, const Tiling& tiling, const Visit& visit) {
  for_each_banded_tile(K, [&](auto banded) {
    if (tiling.rows == banded.kRows && tiling.cols == banded.kCols) visit(banded);
  });
}

}  // namespace deltaconv::cuda::tensor_cores

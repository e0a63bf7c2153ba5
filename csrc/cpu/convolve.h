// The two inner loops that nearly all time is spent in: rows of a depthwise convolution, and a row's share of its
// weight gradient. Both work on one vector of channels and on rows that tiles.h has transformed.
#pragma once

#include "cpu/tiles.h"

namespace deltaconv::cpu::DELTACONV_ISA {

// A row has memory for this many tiles of inputs and of outputs, even if it has fewer tiles.
inline constexpr int64_t kMinTiles = 2;
// Rows of outputs that are convolved together, so that each input is loaded once for both.
inline constexpr int64_t kRows = 2;
inline constexpr int64_t kMaxK = 31;
inline constexpr int64_t kMaxPaddedK = 35;  // whole chunks

// The transformed rows around an output row: [points][pitch] vectors from rows[i] + offset on. Null stands for zeros.
template <class A>
struct Rows {
  const A* pointers[kMaxK + kRows - 1];
  int64_t offset, pitch;
};

// Convolves count (1 or 2) rows of outputs: out[r] = bias + the convolution of rows r to r + K - 1, in `tiles` tiles.
//   weights: [points][K][chunks] vectors, G w
//   out:     [max(tiles, kMinTiles) * m] vectors each
template <class A>
void convolve(const Scheme& scheme, int64_t K, const Rows<A>& rows, int64_t count, int64_t tiles, const A* weights,
              const A* bias, A* const (&out)[kRows]);

// Adds a row's share of the weight gradient: sums[p][i][q] += sum over t in [0, tiles) of slopes[p][t] * rows[i][p][t +
// q], in ascending t.
//   slopes: [points][tiles] vectors, G of the gradient's tiles
//   sums:   [points][K][chunks] vectors
template <class A>
void accumulate(const Scheme& scheme, int64_t K, const Rows<A>& rows, int64_t tiles, const A* slopes, A* sums);

}  // namespace deltaconv::cpu::DELTACONV_ISA

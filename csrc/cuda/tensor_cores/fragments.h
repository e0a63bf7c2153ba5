// The values that a lane holds of the accumulators of a warp's tile, and one walk over them.
#pragma once

#include "cuda/device/mma.h"
#include "cuda/layout/banded_tile.h"

namespace deltaconv::cuda::tensor_cores {

template <class Banded>
using BandedSums = Accumulator[Banded::kStep][Banded::kFragments];

// Calls visit(i, b, n, row, col) for each value n of each accumulator [i][b]. Lane 4 g + q holds there the result of
// row g * kStep + row and column 2q + col of the tile.
//
//   kStep = 2, lane 0      n = 0      n = 1      n = 2       n = 3
//   accumulator [0][0]     (0, 0)     (0, 1)     (16, 0)     (16, 1)
//   accumulator [1][0]     (1, 0)     (1, 1)     (17, 0)     (17, 1)
//   accumulator [0][1]     (0, 8)     (0, 9)     (16, 8)     (16, 9)
template <class Banded, class Visit>
DELTACONV_DEVICE void for_each_value(const Visit& visit) {
  DELTACONV_UNROLL
  for (int i = 0; i < Banded::kStep; ++i) {
    DELTACONV_UNROLL
    for (int b = 0; b < Banded::kFragments; ++b) {
      DELTACONV_UNROLL
      for (int n = 0; n < 4; ++n) visit(i, b, n, n / 2 * 8 * Banded::kStep + i, 8 * b + n % 2);
    }
  }
}

// Calls visit(i, b, n, row, col) for values n and n + 1 of each accumulator, n = 0 and 2: two neighbours in a row.
template <class Banded, class Visit>
DELTACONV_DEVICE void for_each_value_pair(const Visit& visit) {
  for_each_value<Banded>([&](int i, int b, int n, int row, int col) {
    if (n % 2 == 0) visit(i, b, n, row, col);
  });
}

// Where the lane's first value lies among a plane's results [kRows][kResultPitch] in shared memory.
template <class Banded>
DELTACONV_DEVICE int lane_corner(int lane) {
  return lane / 4 * Banded::kStep * Banded::kResultPitch + lane % 4 * 2;
}

}  // namespace deltaconv::cuda::tensor_cores

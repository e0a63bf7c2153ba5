// Sums along the diagonals of accumulators. Where a product's result is a band, what counts is the sum of all values of
// equal row - column.
//
//   values, by the diagonal that they belong to
//                column 0   1   2   3
//   row 0               0  -1  -2  -3
//   row 1               1   0  -1  -2
//   row 2               2   1   0  -1
#pragma once

#include "cuda/device/mma.h"

namespace deltaconv::cuda::tensor_cores {

// The results of one kernel row: kBand fragments of 8 rows x 8 columns. Lane 4 g + q holds row g, columns 2q and 2q +
// 1, of each fragment.
template <int kBand>
struct BandValues {
  float values[kBand][2];
};

// One column of results: kBand fragments of 8 rows. Row 8 b + g is values[b] of the lanes 4 g + q.
template <int kBand>
struct BandColumn {
  float values[kBand];
};

// The column shifted by `down` rows (-7 to 7), as the lanes hold it whose q differs by `flip`; zero beyond the ends.
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> rows_further(const BandColumn<kBand>& column, int down, int flip) {
  const int row = fresh_lane_index() / 4 + down, from = (row & 7) * 4 + (fresh_lane_index() % 4 ^ flip);
  float received[kBand];
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) received[b] = shuffle(column.values[b], from);
  BandColumn<kBand> further;
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) {
    const float below = b + 1 < kBand ? received[b + 1] : 0.0f, above = b > 0 ? received[b - 1] : 0.0f;
    further.values[b] = row < 0 ? above : row < 8 ? received[b] : below;
  }
  return further;
}

// Adds column 2q + 1 to column 2q, on the diagonal: it lies a row lower.
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> join_columns(const BandValues<kBand>& values) {
  BandColumn<kBand> odd, sum;
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) odd.values[b] = values.values[b][1];
  odd = rows_further(odd, 1, 0);
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) sum.values[b] = values.values[b][0] + odd.values[b];
  return sum;
}

// Lanes whose q has the bit `flip` keep `second`, the others `first`; each adds the part of the lane across. Column 2
// (q + flip) lies 2 flip rows lower than column 2q.
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> join_lanes(const BandColumn<kBand>& first, const BandColumn<kBand>& second,
                                              int flip) {
  const bool keeps_second = fresh_lane_index() & flip;
  BandColumn<kBand> sent, sum;
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) sent.values[b] = keeps_second ? first.values[b] : second.values[b];
  const BandColumn<kBand> received = rows_further(sent, keeps_second ? -2 * flip : 2 * flip, flip);
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) {
    sum.values[b] = (keeps_second ? second.values[b] : first.values[b]) + received.values[b];
  }
  return sum;
}

// Sums four kernel rows along their diagonals: lane 4 g + q gets the sums of kernel row q along diagonals 8 b + g - 2q.
// A diagonal is whole where its number is from 0 to 8 (kBand - 1).
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> sum_diagonals(const BandValues<kBand> (&rows)[4]) {
  return join_lanes(join_lanes(join_columns(rows[0]), join_columns(rows[1]), 1),
                    join_lanes(join_columns(rows[2]), join_columns(rows[3]), 1), 2);
}

}  // namespace deltaconv::cuda::tensor_cores

// Sums along the diagonals of accumulators: where a product's result is a band, what counts is the sum of all
// values of equal row - column.
#pragma once

#include "cuda/device/mma.h"

namespace deltaconv::cuda {

// One kernel row's results, kBand blocks of 8 rows x 8 columns; lane 4 g + q holds row g, columns 2q and 2q +
// 1 of each.
template <int kBand>
struct BandValues {
  float of[kBand][2];
};

// A column of results, kBand blocks of 8 rows; row 8 b + g is of[b] of the lanes 4 g + q.
template <int kBand>
struct BandColumn {
  float of[kBand];
};

// The rows `down` further (-7 … 7), of the lanes whose q differs by `flip`; zero beyond the ends.
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> rows_further(const BandColumn<kBand>& column, int down, int flip) {
  const int row = fresh_lane_index() / 4 + down, from = (row & 7) * 4 + (fresh_lane_index() % 4 ^ flip);
  float received[kBand];
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) received[b] = shuffle(column.of[b], from);
  BandColumn<kBand> further;
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) {
    const float below = b + 1 < kBand ? received[b + 1] : 0.0f, above = b > 0 ? received[b - 1] : 0.0f;
    further.of[b] = row < 0 ? above : row < 8 ? received[b] : below;
  }
  return further;
}

// Column 2q with column 2q + 1, which lies a row lower.
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> join_columns(const BandValues<kBand>& values) {
  BandColumn<kBand> odd, sum;
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) odd.of[b] = values.of[b][1];
  odd = rows_further(odd, 1, 0);
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) sum.of[b] = values.of[b][0] + odd.of[b];
  return sum;
}

// Lanes whose q has the bit `flip` keep `second`, the others `first`, each with the part of the lanes across.
// Column 2 (q + flip) lies 2 flip rows lower than column 2q.
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> join_lanes(const BandColumn<kBand>& first, const BandColumn<kBand>& second,
                                              int flip) {
  const bool keeps_second = fresh_lane_index() & flip;
  BandColumn<kBand> sent, sum;
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) sent.of[b] = keeps_second ? first.of[b] : second.of[b];
  const BandColumn<kBand> received = rows_further(sent, keeps_second ? -2 * flip : 2 * flip, flip);
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) {
    sum.of[b] = (keeps_second ? second.of[b] : first.of[b]) + received.of[b];
  }
  return sum;
}

// Of four kernel rows, lane 4 g + q gets the sums of row q along the diagonals 8 b + g - 2q. A diagonal is
// whole where it is from 0 to 8 (kBand - 1).
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> sum_diagonals(const BandValues<kBand> (&rows)[4]) {
  return join_lanes(join_lanes(join_columns(rows[0]), join_columns(rows[1]), 1),
                    join_lanes(join_columns(rows[2]), join_columns(rows[3]), 1), 2);
}

}  // namespace deltaconv::cuda

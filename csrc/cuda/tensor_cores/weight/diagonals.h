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

// A column from other lanes. The sums below move columns up or down by rows, that is by lanes, and from one fragment
// into the next. A lane gives its value of fragment b + 1 in place of b where rows wrap around: one choice for each
// value, where the lane that receives it would have to choose between two.
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> receive(const float (&given)[kBand + 1], bool wraps, int from) {
  BandColumn<kBand> received;
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) received.values[b] = shuffle(wraps ? given[b + 1] : given[b], from);
  return received;
}

// Adds column 2q + 1 to column 2q, on the diagonal: it lies a row lower.
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> join_columns(const BandValues<kBand>& values, int lane) {
  float odd[kBand + 1] = {};
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) odd[b] = values.values[b][1];
  BandColumn<kBand> sum = receive<kBand>(odd, lane < 4, (lane + 4) % kWarp);
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) sum.values[b] += values.values[b][0];
  return sum;
}

// Lanes whose q has the bit `flip` keep `second`, the others `first`; each adds the part of the lane across. Column 2
// (q + flip) lies 2 flip rows lower than column 2q. What goes to a lane that keeps `second` has to move up by 2 flip
// rows: by a fragment, and down by 8 - 2 flip rows.
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> join_lanes(const BandColumn<kBand>& first, const BandColumn<kBand>& second, int flip,
                                              int lane) {
  const bool keeps_second = lane & flip;
  float given[kBand + 1];
  DELTACONV_UNROLL
  for (int b = 0; b <= kBand; ++b) {
    given[b] = keeps_second ? (b < kBand ? first.values[b < kBand ? b : 0] : 0.0f)
                            : (b > 0 ? second.values[b > 0 ? b - 1 : 0] : 0.0f);
  }
  const int wrapping = keeps_second ? 8 * flip : kWarp - 8 * flip;  // lanes
  BandColumn<kBand> sum = receive<kBand>(given, lane < wrapping, ((lane + kWarp - wrapping) % kWarp) ^ flip);
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) sum.values[b] += keeps_second ? second.values[b] : first.values[b];
  return sum;
}

// Without a second, only lanes whose q has not the bit `flip` get a sum.
template <int kBand>
DELTACONV_DEVICE BandColumn<kBand> join_lanes(const BandColumn<kBand>& only, int flip, int lane) {
  float given[kBand + 1] = {};
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) given[b] = only.values[b];
  BandColumn<kBand> sum = receive<kBand>(given, lane < 8 * flip, ((lane + 8 * flip) % kWarp) ^ flip);
  DELTACONV_UNROLL
  for (int b = 0; b < kBand; ++b) sum.values[b] += only.values[b];
  return sum;
}

// Sums kRows kernel rows, 4 at most, along their diagonals: lane 4 g + q gets the sums of kernel row q along diagonals
// 8 b + g - 2q. A diagonal is whole where its number is from 0 to 8 (kBand - 1).
template <int kRows, int kBand>
DELTACONV_DEVICE BandColumn<kBand> sum_diagonals(const BandValues<kBand> (&rows)[kRows], int lane) {
  BandColumn<kBand> columns[kRows];
  DELTACONV_UNROLL
  for (int h = 0; h < kRows; ++h) columns[h] = join_columns(rows[h], lane);
  if constexpr (kRows == 1) {
    return join_lanes(join_lanes(columns[0], 1, lane), 2, lane);
  } else {
    static_assert(kRows == 3 || kRows == 4);
    const BandColumn<kBand> upper = join_lanes(columns[0], columns[1], 1, lane);
    if constexpr (kRows == 3) {
      return join_lanes(upper, join_lanes(columns[2], 1, lane), 2, lane);
    } else {
      return join_lanes(upper, join_lanes(columns[2], columns[3], 1, lane), 2, lane);
    }
  }
}

}  // namespace deltaconv::cuda::tensor_cores

// Writes accumulators to the planes of gradients in the workspace: rounding, scales, words.
#pragma once

#include "cuda/frame/tile.h"
#include "cuda/layout/backward_workspace.h"
#include "cuda/tensor_cores/fragments.h"

namespace deltaconv::cuda::tensor_cores {

// Rounds one plane's gradients of a tile and writes those that exist; one warp does it. A lane owns columns 2q and 2q +
// 1. If the plane starts at an odd element, that pair straddles two words, so each lane stores its left neighbour's
// second value with its own first.
//
//   lead even    word of lane q: columns 2q, 2q + 1
//   lead odd     word of lane q: columns 2q - 1, 2q; lane 0 gets column -1 from lane 3, of the fragment before
template <class T, class Banded>
class PlaneWriter {
 public:
  DELTACONV_DEVICE PlaneWriter(const GradientGrid& grid, const Tile& tile, T* plane)
      : grid_(grid), tile_(tile), plane_(plane), odd_(grid.lead % 2 == 1) {}

  DELTACONV_DEVICE void write(const BandedSums<Banded>& sums, const float (&inverse)[2][2]) const {
    const int32_t first_row = tile_.row + lane_index() / 4 * Banded::kStep;
    uint32_t before[2];  // for each row of a fragment, the word of the fragment on its left
    for_each_value_pair<Banded>([&](int i, int b, int n, int row, int col) {
      const float* values = sums[i][b].values + n;
      const float by = inverse[n / 2 * (Banded::kStep - 1)][b / 2];
      const uint32_t word = pack_pair<T>(values[0] * by, values[1] * by);
      uint32_t& left = before[n / 2];
      if (b == 0) left = 0;
      store(first_row + row, col, odd_ ? shifted(left, word) : word);
      if (b + 1 == Banded::kFragments && odd_) store(first_row + row, col + 8, shifted(word, 0));
      left = word;
    });
  }

  // Writes zeros beside the first and the last column.
  DELTACONV_DEVICE void write_margins(bool first, bool last) const {
    const int32_t end = grid_.lead + grid_.cols, before = lane_index() % 8, after = end / 8 * 8 + before;
    if (first && before < grid_.lead) clear_column(before);
    if (last && end <= after && after < grid_.pitch) clear_column(after);
  }

 private:
  // Writes zeros to the tile's rows of one column of the plane, each lane to every fourth row.
  DELTACONV_DEVICE void clear_column(int32_t col) const {
    const int32_t rows = grid_.rows - tile_.row < Banded::kRows ? grid_.rows - tile_.row : Banded::kRows;
    const int first = lane_index() / 8;
    T* to = plane_ + int64_t{tile_.row + first} * grid_.pitch + col;
    DELTACONV_NO_UNROLL
    for (int row = first; row < rows; row += 4, to += int64_t{4} * grid_.pitch) *to = T{0};
  }

  // The value left of this lane's pair, and the first value of the pair.
  static DELTACONV_DEVICE uint32_t shifted(uint32_t before, uint32_t word) {
    const int q = lane_index() % 4;
    const uint32_t left = shuffle(q == 3 ? before : word, lane_index() / 4 * 4 + (q + 3) % 4);
    return left >> 16 | word << 16;
  }

  // Stores a word, or the part of it that exists. `first` is the tile's column where the fragment begins.
  DELTACONV_DEVICE void store(int32_t row, int first, uint32_t word) const {
    const int32_t in_tile = first + lane_index() % 4 * 2 - (odd_ ? 1 : 0), col = tile_.col + in_tile;
    const int32_t limit = grid_.cols - tile_.col < Banded::kCols ? grid_.cols - tile_.col : Banded::kCols;
    if (row >= grid_.rows || in_tile >= limit) return;
    T* to = plane_ + int64_t{row} * grid_.pitch + grid_.lead + col;
    if (in_tile >= 0 && in_tile + 1 < limit) {
      *reinterpret_cast<uint32_t*>(to) = word;
    } else if (in_tile >= 0) {
      to[0] = T{static_cast<uint16_t>(word)};
    } else {
      to[1] = T{static_cast<uint16_t>(word >> 16)};
    }
  }

  GradientGrid grid_;
  Tile tile_;
  T* plane_;
  bool odd_;
};

// The exponent of the scale of a cell whose values are at most `largest`; an infinity takes the largest scale.
DELTACONV_DEVICE int scale_exponent(float largest) {
  const int exponent = static_cast<int>(float_to_bits(largest) >> 23) - 127 - 14;
  const int up = (exponent + kScaleStep - 1) & -kScaleStep;
  return up < kSmallestScale ? kSmallestScale : up;
}
static_assert((kScaleStep & (kScaleStep - 1)) == 0);

DELTACONV_DEVICE float power_of_two(int exponent) { return bits_to_float(uint32_t(exponent + 127) << 23); }

}  // namespace deltaconv::cuda::tensor_cores

// Copies windows of zero-padded planes from global memory into the padded planes of banded_tile.h.
#pragma once

#include "cuda/device/device.h"
#include "cuda/layout/banded_tile.h"

namespace deltaconv::cuda::tensor_cores {

// A plane in global memory: [rows][pitch], pitch a multiple of 8 elements, rows aligned to 16 bytes.
template <class T>
struct PaddedPlane {
  const T* data;
  int32_t rows, pitch;
};

// Starts the copies of the window whose first element is (top, left) of the plane, left a multiple of 8; one warp does
// it. What lies outside the plane is zero. A lane keeps to a chunk of 8 columns and takes every kCopiedRows-th row.
// Neighbouring lanes take rows of equal parity, which are stored side by side.
//
//   kStep = 2, kLoads = 5, so kCopiedRows = 6
//   lane      0  1  2  3  4   5  6 ...  15 16 ...  29  30 31
//   row       0  0  0  0  0   2  2       1  1       5   -  -    then rows 6, 8 and so on
//   chunk     0  1  2  3  4   0  1       0  1       4   -  -
template <class T, class Banded>
DELTACONV_DEVICE void copy_plane_window(const PaddedPlane<T>& plane, int32_t top, int32_t left, int K, T* shared) {
  constexpr int kRows = Banded::kCopiedRows, kStep = Banded::kStep, kStoredStep = kRows / kStep;
  static_assert(kRows > 0 && kRows % kStep == 0);
  const auto lane = static_cast<uint32_t>(fresh_lane_index());
  const auto chunk = static_cast<int>(lane % Banded::kCopiedLanes);
  const auto row_of_lane = static_cast<int>(lane / Banded::kCopiedLanes);
  if (row_of_lane >= kRows || chunk >= Banded::kLoads) return;
  const int first = row_of_lane % kStoredStep * kStep + row_of_lane / kStoredStep;
  const int32_t at = left + 8 * chunk, rows = 0 <= at && at < plane.pitch ? plane.rows : 0;
  int32_t row = top + first;
  const T* from = plane.data + int64_t{row} * plane.pitch + at;
  T* to = shared + Banded::stored_row(first, K) * Banded::kPitch + 8 * chunk;
  const int64_t step = int64_t{kRows} * plane.pitch;
  const int count = Banded::plane_rows(K) - first;
  DELTACONV_NO_UNROLL
  for (int n = 0; n < count; n += kRows) {
    copy16_async(to, from, static_cast<uint32_t>(row) < static_cast<uint32_t>(rows));
    row += kRows;
    from += step;
    to += kStoredStep * Banded::kPitch;
  }
}

}  // namespace deltaconv::cuda::tensor_cores

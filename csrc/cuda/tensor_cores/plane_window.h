// Copies windows of zero-padded planes from global memory into the padded planes of banded_tile.h.
#pragma once

#include <utility>

#include "cuda/device/device.h"
#include "cuda/layout/banded_tile.h"

namespace deltaconv::cuda::tensor_cores {

// One window, in the same place of many planes. A plane in global memory is [rows][pitch], pitch a multiple of 8
// elements, rows aligned to 16 bytes. One warp copies a window. Where its lanes read and write, and which of that
// exists, is the same for all planes and computed once; then 16 bytes take a copy and an addition.
//
// A lane keeps to a chunk of 8 columns, and takes every kCopiedRows-th row of each parity. Shared memory takes the
// accesses of 8 lanes at a time, all banks. Where a row is stored with no gap behind it, the chunks of all rows are
// taken in their order; rows of 6 chunks begin with another eight lanes; rows of 4 chunks, which lie 5 chunks apart,
// share eight lanes with the fourth row behind them.
//
//   kStep = 2, kLoads = 5, so kCopiedRows = 6: the first copy of even rows
//   lane      0  1  2  3  4   5  6 ...  24  25 ...  29  30 31
//   row       0  0  0  0  0   2  2       8  10      10   -  -    then rows 12 to 22 and so on; then odd rows
//   chunk     0  1  2  3  4   0  1       4   0       4   -  -
template <class T, class Banded>
class PlaneWindow {
 public:
  // The window begins at (top, left) of a plane, left a multiple of 8. What lies outside the plane is zero.
  DELTACONV_DEVICE PlaneWindow(int32_t rows, int32_t pitch, int32_t top, int32_t left, int K)
      : PlaneWindow(rows, pitch, top, left, K, static_cast<uint32_t>(fresh_lane_index())) {}

  // Whether this lane copies anything; the others must not call copy().
  DELTACONV_DEVICE bool has_lane() const { return has_lane_; }

  // Starts this lane's copies of one plane's window.
  DELTACONV_DEVICE void copy(const T* plane, T* shared) const {
    const T* from = plane + from_;
    T* to = shared + to_;
    DELTACONV_UNROLL
    for (int parity = 0; parity < kStep; ++parity) {
      copy_rows(from + parity * next_row_, to + parity * odd_rows_, exists_[parity], kTimes());
    }
  }

 private:
  static constexpr int kStep = Banded::kStep, kRows = Banded::kCopiedRows, kCopies = Banded::kCopies;
  // How many times the rows exist whatever K is.
  static constexpr int kWholeCopies = Banded::parity_rows(Banded::kLeastKernel) / kRows;
  using kTimes = std::make_integer_sequence<int, kCopies>;

  DELTACONV_DEVICE PlaneWindow(int32_t rows, int32_t pitch, int32_t top, int32_t left, int K, uint32_t lane)
      : next_row_(pitch), step_(int64_t{kRows * kStep} * pitch), odd_rows_(Banded::stored_row(1, K) * Banded::kPitch) {
    const auto chunk = static_cast<int>(lane % Banded::kCopiedLanes);
    const auto group = static_cast<int>(lane / Banded::kCopiedLanes);
    const int stored = Banded::kCopiedLanes == 4 ? group / 2 + group % 2 * 4 : group;
    has_lane_ = chunk < Banded::kLoads && group < kRows;
    const int32_t col = left + 8 * chunk, row = top + stored * kStep;
    from_ = int64_t{row} * pitch + col;
    to_ = stored * Banded::kPitch + 8 * chunk;
    const uint32_t existing = static_cast<uint32_t>(col) < static_cast<uint32_t>(pitch) ? rows : 0;
    DELTACONV_UNROLL
    for (int n = 0; n < kCopies; ++n) {
      is_stored_[n] = n < kWholeCopies || stored + n * kRows < Banded::parity_rows(K);
      DELTACONV_UNROLL
      for (int parity = 0; parity < kStep; ++parity) {
        exists_[parity][n] = static_cast<uint32_t>(row + n * kRows * kStep + parity) < existing;
      }
    }
  }

  template <int... kTimes>
  DELTACONV_DEVICE void copy_rows(const T* from, T* to, const bool (&exists)[kCopies],
                                  std::integer_sequence<int, kTimes...>) const {
    (copy_row<kTimes>(from, to, exists), ...);
  }
  template <int kTime>
  DELTACONV_DEVICE void copy_row(const T*& from, T* to, const bool (&exists)[kCopies]) const {
    if (is_stored_[kTime]) copy16_async<kTime * kRows * Banded::kPitch * 2>(to, from, exists[kTime]);
    from += step_;
  }

  int64_t from_, next_row_, step_;  // elements of the plane
  int to_, odd_rows_;               // elements of shared memory
  bool has_lane_;
  bool is_stored_[kCopies];  // whether the window has this lane's row
  bool exists_[kStep][kCopies];
};

}  // namespace deltaconv::cuda::tensor_cores

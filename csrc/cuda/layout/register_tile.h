// How the kernels on CUDA cores divide their work: facts that the plan and the kernels share.
#pragma once

#include "cuda/layout/stages.h"

namespace deltaconv::cuda::cuda_cores {

// A CTA works on 16 channel pairs (c, c + C/2). Each half of their channels is 64 bytes of float32, two sectors of
// device memory. A lane of a warp is one of these 32 channels.
inline constexpr int kPairs = 16;
inline constexpr int kLanes = 2 * kPairs;

// A thread computes this many rows and columns of results, all of its lane's channel. A warp computes one such register
// tile for each of its kLanes channels.
inline constexpr int kTileH = 4, kTileW = 8;

inline constexpr int kMaxThreads = 256;
inline constexpr int kMaxRegisters = 128;  // registers of a thread: two CTAs of kMaxThreads fit a multiprocessor

// The kernel rows, `first` to `last` inclusive, that a band of input rows meets in a tile of `rows` rows.
struct KernelRows {
  int32_t first, last;
};
DELTACONV_ANYWHERE KernelRows kernel_rows(int32_t band, int32_t band_rows, int32_t rows, int32_t K) {
  const int32_t first = band - rows + 1, last = band + band_rows - 1;
  return {first < 0 ? 0 : first, last >= K ? K - 1 : last};
}

// Floats of shared memory that a convolution takes: a band of inputs and the kernel rows that it meets.
DELTACONV_ANYWHERE int64_t convolve_floats(const Tiling& tiling, int32_t K) {
  const int64_t met = tiling.band_rows + tiling.rows - 1;
  return (static_cast<int64_t>(tiling.band_rows) * (tiling.cols + K - 1) + (met < K ? met : K) * K) * kLanes;
}

// The weight gradient of a channel is cut into tasks; a warp works on one at a time. A task has at most kTapRows kernel
// rows. It has all kernel columns where K is a compile-time constant, else at most kTapCols.
inline constexpr int kTapRows = 4, kTapCols = 4;

// The odd kernel sizes from 3 to this one are compile-time constants. The sanitizers' build has fewer of them, to
// compile in time.
#if !defined(DELTACONV_LARGEST_UNROLLED)
#define DELTACONV_LARGEST_UNROLLED 13
#endif
inline constexpr int kSmallestUnrolled = 3, kLargestUnrolled = DELTACONV_LARGEST_UNROLLED;

DELTACONV_ANYWHERE bool is_unrolled(int64_t K) { return K >= kSmallestUnrolled && K <= kLargestUnrolled; }

struct WeightTasks {
  int32_t K, row_groups, col_groups;

  DELTACONV_ANYWHERE explicit WeightTasks(int32_t K)
      : K(K),
        row_groups((K + kTapRows - 1) / kTapRows),
        col_groups(is_unrolled(K) ? 1 : (K + kTapCols - 1) / kTapCols) {}
  DELTACONV_ANYWHERE int32_t count() const { return row_groups * col_groups; }
  DELTACONV_ANYWHERE Span rows(int32_t task) const { return share(K, task / col_groups, row_groups); }
  DELTACONV_ANYWHERE Span cols(int32_t task) const { return share(K, task % col_groups, col_groups); }
};

// The kernel rows of those tasks among [first, first + count) that exist.
DELTACONV_ANYWHERE Span task_rows(const WeightTasks& tasks, int32_t first, int32_t count) {
  const int32_t last = first + count < tasks.count() ? first + count - 1 : tasks.count() - 1;
  return {tasks.rows(first).begin, tasks.rows(last).end};
}

// Floats of shared memory that the weight gradient takes: a tile of gradients and the inputs that `kernel_rows`
// kernel rows meet.
DELTACONV_ANYWHERE int64_t weight_floats(const Tiling& tiling, int32_t K, int32_t kernel_rows) {
  const int64_t inputs = static_cast<int64_t>(tiling.rows + kernel_rows - 1) * (tiling.cols + K - 1);
  return (inputs + static_cast<int64_t>(tiling.rows) * tiling.cols) * kLanes;
}

// Floats of shared memory that adding up the slices of `tasks` tasks takes: the taps of each task, and its bias.
DELTACONV_ANYWHERE int64_t slice_floats(int32_t tasks, int32_t K) {
  return static_cast<int64_t>(tasks) * (kTapRows * (is_unrolled(K) ? K : kTapCols) + 1) * kLanes;
}

}  // namespace deltaconv::cuda::cuda_cores

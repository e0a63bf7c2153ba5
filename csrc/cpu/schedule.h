// How work is cut into tasks and given to threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "cpu/problem.h"

namespace deltaconv::cpu {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Columns of a stage whose K rows, kChannelBlock channel pairs wide, stay in a 256 KiB second-level cache with
// room to spare.
inline int64_t panel_width(int64_t K) { return std::max<int64_t>(192 * 1024 / (K * 2 * kChannelBlock * 4) - K, 32); }

// The number of threads worth waking for this many multiply-adds. A thread then has work for some microseconds.
inline int64_t useful_threads(int64_t multiply_adds) {
  constexpr int64_t kMultiplyAddsPerThread = 200'000;
  const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
  return std::clamp<int64_t>(multiply_adds / kMultiplyAddsPerThread, 1, threads);
}

// Runs every task once, in the order of `tasks`, as threads become free. Each thread has `scratch_bytes` of its own.
template <class Task, class Run>
void run_tasks(const std::vector<Task>& tasks, int64_t threads, int64_t scratch_bytes, const Run& run) {
  struct Release {
    void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{64}); }
  };
  threads = std::min(threads, static_cast<int64_t>(tasks.size()));
  const std::unique_ptr<std::byte, Release> scratch(
      static_cast<std::byte*>(::operator new(threads * scratch_bytes, std::align_val_t{64})));
  std::atomic<size_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks.size();) {
        run(tasks[i], scratch.get() + thread * scratch_bytes);
      }
#if defined(__x86_64__)
      _mm_sfence();  // kernels may have written past the caches, which later stores would overtake
#endif
    }
  });
}

}  // namespace deltaconv::cpu

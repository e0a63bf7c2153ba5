// Selects the kernels whose K is a compile-time constant, so that their kernel columns are unrolled.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/layout/register_tile.h"

namespace deltaconv::cuda::cuda_cores {

// Calls launch(std::integral_constant<int, K>()), or with 0 where K stays a run-time value.
template <int kKernel = kSmallestUnrolled, class Launch>
void with_kernel_size(int64_t K, const Launch& launch) {
  if constexpr (kKernel > kLargestUnrolled) {
    launch(std::integral_constant<int, 0>());
  } else if (K == kKernel) {
    launch(std::integral_constant<int, kKernel>());
  } else {
    with_kernel_size<kKernel + 2>(K, launch);
  }
}

}  // namespace deltaconv::cuda::cuda_cores

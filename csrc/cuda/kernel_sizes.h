// The kernel sizes that are compile-time constants, so that their columns are unrolled.
#pragma once

#include <cstdint>
#include <type_traits>

namespace deltaconv::cuda {

// Calls launch(std::integral_constant<int, K>), or with 0 where K stays a run-time value.
template <class Launch>
void with_kernel_size(int64_t K, const Launch& launch) {
  switch (K) {
    case 3: return launch(std::integral_constant<int, 3>());
    case 5: return launch(std::integral_constant<int, 5>());
    case 7: return launch(std::integral_constant<int, 7>());
    case 9: return launch(std::integral_constant<int, 9>());
    case 11: return launch(std::integral_constant<int, 11>());
    case 13: return launch(std::integral_constant<int, 13>());
    default: return launch(std::integral_constant<int, 0>());
  }
}

}  // namespace deltaconv::cuda

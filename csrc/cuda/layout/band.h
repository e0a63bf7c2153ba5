// The banded matrix of the tensor cores' kernels: for which kernel sizes there is one, and how high it is.
#pragma once

#include <cstdint>
#include <type_traits>

namespace deltaconv::cuda::tensor_cores {

// Kernel sizes with a banded matrix. Below, the matrix is so sparse that CUDA cores are faster; above, it would take a
// fifth fragment, for which there are no kernels.
inline constexpr int kSmallestKernel = 7, kLargestKernel = 25;

// Eight neighbouring columns meet K + 7 rows of the matrix: kBand fragments of 8 rows, kBand = 2, 3 or 4. Calls
// visit(std::integral_constant<int, kBand>()), or does nothing where there are no kernels for this K.
template <class Visit>
void with_band(int64_t K, const Visit& visit) {
  if (K < kSmallestKernel || K > kLargestKernel) return;
  if (K <= 9) {
    visit(std::integral_constant<int, 2>());
  } else if (K <= 17) {
    visit(std::integral_constant<int, 3>());
  } else {
    visit(std::integral_constant<int, 4>());
  }
}

}  // namespace deltaconv::cuda::tensor_cores

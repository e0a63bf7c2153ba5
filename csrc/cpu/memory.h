// Memory for what a call computes.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstddef>
#include <memory>

namespace deltaconv::cpu {

// An uninitialised tensor with the dtype and device of `like`.
torch::stable::Tensor new_result(const torch::stable::Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes);

// Whether memory of this size comes fresh from the system at each call.
constexpr bool is_fresh(size_t bytes) { return bytes >= size_t{8} << 20; }

// Whether kernels should write it past the caches. Not if it is fresh: its pages have just been zeroed.
bool streams_past_caches(const torch::stable::Tensor& result);

// Asks for huge pages where memory is fresh. There a call would else spend as much on page faults, one for
// each 4 KiB touched, as on its convolutions.
void prefer_huge_pages(void* memory, size_t bytes);

// Uninitialised.
template <class A>
std::unique_ptr<A[]> new_array(size_t count) {
  std::unique_ptr<A[]> array(new A[count]);
  prefer_huge_pages(array.get(), count * sizeof(A));
  return array;
}

}  // namespace deltaconv::cpu

// The memory of a call's results.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstddef>
#include <memory>

namespace deltaconv::cpu {

// An uninitialised tensor with the dtype and device of `like`.
torch::stable::Tensor new_result(const torch::stable::Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes);

// Whether memory of this size comes fresh from the system at each call.
constexpr bool is_fresh(size_t bytes) { return bytes >= size_t{8} << 20; }

// Whether kernels should write the tensor past the caches. They should not if its memory is fresh, because its pages
// have just been zeroed and are cached.
bool streams_past_caches(const torch::stable::Tensor& result);

// Asks for huge pages where memory is fresh. A call would spend as much on page faults there, one for each 4 KiB
// touched, as on its convolutions.
void prefer_huge_pages(void* memory, size_t bytes);

// An uninitialised tensor for results, with the dtype and device of `like`.
template <class A>
std::unique_ptr<A[]> new_array(size_t count) {
  std::unique_ptr<A[]> array(new A[count]);
  prefer_huge_pages(array.get(), count * sizeof(A));
  return array;
}

}  // namespace deltaconv::cpu

#include "cpu/memory.h"

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace deltaconv::cpu {
namespace {

size_t bytes_of(const torch::stable::Tensor& tensor) {
  return static_cast<size_t>(tensor.numel()) * static_cast<size_t>(tensor.element_size());
}

}  // namespace

torch::stable::Tensor new_result(const torch::stable::Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  const torch::stable::Tensor result = torch::stable::new_empty(like, sizes);
  if (result.numel() > 0) prefer_huge_pages(result.mutable_data_ptr(), bytes_of(result));
  return result;
}

bool streams_past_caches(const torch::stable::Tensor& result) { return !is_fresh(bytes_of(result)); }

void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  if (!is_fresh(bytes)) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (address + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (address + bytes) & ~(kHugePage - 1);
  // This is advice: where the system cannot follow it, the call fails and nothing changes.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace deltaconv::cpu

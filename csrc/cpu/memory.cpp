#include "cpu/memory.h"

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace deltaconv::cpu {

torch::stable::Tensor new_result(const torch::stable::Tensor& like,
                                 torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  const torch::stable::Tensor result = torch::stable::new_empty(like, sizes);
  const size_t bytes = static_cast<size_t>(result.numel()) * static_cast<size_t>(result.element_size());
  if (bytes > 0) prefer_huge_pages(result.mutable_data_ptr(), bytes);
  return result;
}

void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  if (bytes < 4 * kHugePage) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (address + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (address + bytes) & ~(kHugePage - 1);
  // Advice: where the system has none to give, the call fails and nothing changes.
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace deltaconv::cpu

// The launch plan explained, as an operator of the CPU library: it needs no CUDA.
#include <torch/csrc/stable/library.h>

#include "cuda/plan.h"

namespace deltaconv::cuda {
namespace {

// sizes: B, H, W, C, K; element: ElementType; gpu: compute capability (90 for 9.0), multiprocessors, bytes of
// shared memory of a block and of a multiprocessor.
std::string cuda_plan(std::vector<int64_t> sizes, std::vector<int64_t> factors, int64_t element,
                      std::vector<int64_t> gpu) {
  STD_TORCH_CHECK(sizes.size() == 5, "sizes: expected B, H, W, C, K, got ", sizes.size(), " numbers");
  STD_TORCH_CHECK(gpu.size() == 4, "gpu: expected 4 numbers, got ", gpu.size());
  STD_TORCH_CHECK(element >= 0 && element <= 2, "element: expected 0 to 2, got ", element);
  const auto stages = static_cast<int64_t>(factors.size());
  const PlanProblem problem{{sizes[0], sizes[1], sizes[2], sizes[3], stages, sizes[4]},
                            std::move(factors),
                            static_cast<ElementType>(element)};
  const DeviceProperties device{static_cast<int32_t>(gpu[0]), static_cast<int32_t>(gpu[1]), gpu[2], gpu[3]};
  return explain(forward_plan(problem, device)) + explain(backward_plan(problem, device));
}

}  // namespace
}  // namespace deltaconv::cuda

STABLE_TORCH_LIBRARY_IMPL(deltaconv, CompositeExplicitAutograd, library) {
  library.impl("cuda_plan", TORCH_BOX(&deltaconv::cuda::cuda_plan));
}

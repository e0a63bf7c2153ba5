// The launch plan explained, as an operator of the CPU library: it needs no CUDA.
#include <torch/csrc/stable/library.h>

#include "cuda/plan/fused_block.h"

namespace deltaconv::cuda {
namespace {

PlanProblem pyramid_problem(const std::vector<int64_t>& sizes, std::vector<int64_t> factors, int64_t element) {
  STD_TORCH_CHECK(element >= 0 && element <= 2, "element: expected 0 to 2, got ", element);
  const auto stages = static_cast<int64_t>(factors.size());
  return {{sizes[0], sizes[1], sizes[2], sizes[3], stages, sizes[4]},
          std::move(factors),
          static_cast<ElementType>(element)};
}

DeviceProperties device_of(const std::vector<int64_t>& gpu) {
  STD_TORCH_CHECK(gpu.size() == 4, "gpu: expected 4 numbers, got ", gpu.size());
  return {static_cast<int32_t>(gpu[0]), static_cast<int32_t>(gpu[1]), gpu[2], gpu[3]};
}

// sizes: B, H, W, C, K. element: an ElementType. gpu: compute capability (90 for 9.0), multiprocessors, and the bytes
// of shared memory of a CTA and of a multiprocessor.
std::string cuda_plan(std::vector<int64_t> sizes, std::vector<int64_t> factors, int64_t element,
                      std::vector<int64_t> gpu) {
  STD_TORCH_CHECK(sizes.size() == 5, "sizes: expected B, H, W, C, K, got ", sizes.size(), " numbers");
  const PlanProblem problem = pyramid_problem(sizes, std::move(factors), element);
  const DeviceProperties device = device_of(gpu);
  return explain(forward_plan(problem, device)) + explain(backward_plan(problem, device));
}

// cuda_plan of a fused block. sizes: B, H, W, inter, K, dim.
std::string cuda_block_plan(std::vector<int64_t> sizes, std::vector<int64_t> factors, int64_t element,
                            std::vector<int64_t> gpu) {
  STD_TORCH_CHECK(sizes.size() == 6, "sizes: expected B, H, W, inter, K, dim, got ", sizes.size(), " numbers");
  return explain(fused_block_plan({pyramid_problem(sizes, std::move(factors), element), sizes[5]}, device_of(gpu)));
}

}  // namespace
}  // namespace deltaconv::cuda

STABLE_TORCH_LIBRARY_IMPL(DELTACONV_NAMESPACE, CompositeExplicitAutograd, library) {
  library.impl("cuda_plan", TORCH_BOX(&deltaconv::cuda::cuda_plan));
  library.impl("cuda_block_plan", TORCH_BOX(&deltaconv::cuda::cuda_block_plan));
}

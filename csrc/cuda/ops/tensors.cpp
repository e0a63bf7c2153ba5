#include "cuda/ops/tensors.h"

#include <limits>

namespace deltaconv::cuda {
namespace {

ElementType check_type(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return ElementType::kFloat32;
    case ScalarType::Half: return ElementType::kFloat16;
    case ScalarType::BFloat16: return ElementType::kBFloat16;
    default: STD_TORCH_CHECK(false, "x: expected float32, float16 or bfloat16, got ", toString(x.scalar_type()));
  }
}

// Positions within an axis are computed in 32 bits; see layout/geometry.h.
void check_limits(const Sizes& sizes) {
  constexpr int64_t kLongest = int64_t{1} << 30;
  STD_TORCH_CHECK(sizes.H < kLongest && sizes.W < kLongest && sizes.C < kLongest,
                  "x: height, width and channels must be below 2^30");
  STD_TORCH_CHECK(sizes.B <= std::numeric_limits<int32_t>::max(), "x: the batch must fit 32 bits");
}

}  // namespace

PlanProblem plan_problem_of(const Inputs& inputs) {
  check_limits(inputs.sizes);
  return {inputs.sizes, inputs.factors, check_type(inputs.x)};
}

}  // namespace deltaconv::cuda

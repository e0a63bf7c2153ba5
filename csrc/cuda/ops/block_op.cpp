// The fused block as an operator: tensors, workspace, registration.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda/ops/device_properties.h"
#include "cuda/ops/fused_block.h"
#include "cuda/ops/stream.h"
#include "cuda/ops/tensors.h"
#include "cuda/plan/remembered.h"

namespace deltaconv::cuda {
namespace {

using Shape = std::vector<int64_t>;

// The tensor if it is contiguous and aligned for 16-byte accesses, else a copy that is.
Tensor dense(const char* name, const Tensor& tensor, const Tensor& x, const Shape& shape) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == x.scalar_type() && tensor.is_cuda() && tensor.get_device_index() == x.get_device_index(),
      name, ": expected the dtype and device of x");
  bool fits = tensor.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = tensor.size(static_cast<int64_t>(i)) == shape[i];
  STD_TORCH_CHECK(fits, name, ": has not the shape that the other arguments ask for");
  const Tensor contiguous = torch::stable::contiguous(tensor);
  const bool aligned = reinterpret_cast<uintptr_t>(contiguous.const_data_ptr()) % 16 == 0;
  return aligned ? contiguous : torch::stable::clone(contiguous);
}

// A 1 x 1 convolution's parameters.
struct Linear {
  Tensor weight;
  std::optional<Tensor> bias;

  Linear(const char* name, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& x, int64_t outputs,
         int64_t inputs)
      : weight(dense(name, weight, x, {outputs, inputs})) {
    if (bias) this->bias = dense(name, *bias, x, {outputs});
  }
};

template <class T>
const T* data_of(const std::optional<Tensor>& tensor) {
  return tensor ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

struct FusedBlock {
  Tensor x;
  std::optional<Tensor> residual;
  Linear in, out, pool;
  Inputs pyramid;  // its x is what the in-projection writes
};

template <class T>
Tensor launch_on(FusedBlock& block, const FusedBlockProblem& problem) {
  const Tensor& x = block.x;
  const Sizes& sizes = block.pyramid.sizes;
  const int32_t device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const FusedBlockPlan& plan = remembered_fused_block_plan(problem, device_properties(device));
  const Problem<T> pyramid = problem_of<T>(block.pyramid, true);
  Tensor& hidden = block.pyramid.x;
  if (plan.planar()) {
    hidden = x;  // lets its memory go first
    hidden = torch::stable::new_empty(x, {plan.hidden});
  }
  const Tensor local = torch::stable::new_empty(x, {sizes.B, sizes.H, sizes.W, plan.out.depth});
  const Tensor result = torch::stable::new_empty(x, {sizes.B, sizes.H, sizes.W, problem.dim});
  const Tensor workspace = torch::stable::new_empty(x, {plan.sums + plan.shifts}, ScalarType::Float);
  const FusedBlockTensors<T> tensors{data_of<T>(x),
                                     data_of<T>(block.residual),
                                     data_of<T>(block.in.weight),
                                     data_of<T>(block.in.bias),
                                     data_of<T>(block.out.weight),
                                     data_of<T>(block.out.bias),
                                     data_of<T>(block.pool.weight),
                                     data_of<T>(block.pool.bias),
                                     static_cast<T*>(hidden.mutable_data_ptr()),
                                     static_cast<T*>(local.mutable_data_ptr()),
                                     static_cast<T*>(result.mutable_data_ptr()),
                                     static_cast<float*>(workspace.mutable_data_ptr())};
  launch_fused_block<T>(plan, tensors, pyramid, current_stream(device));
  return result;
}

Tensor block_cuda(const Tensor& x, const Tensor& in_weight, const std::optional<Tensor>& in_bias, const Tensor& weight,
                  const std::optional<Tensor>& bias, const Tensor& out_weight, const std::optional<Tensor>& out_bias,
                  const Tensor& pool_weight, const std::optional<Tensor>& pool_bias, std::vector<int64_t> factors,
                  int64_t gate, double gate_scale, const std::optional<Tensor>& residual) {
  STD_TORCH_CHECK(x.dim() == 4 && in_weight.dim() == 2, "x, in_weight: expected 4 and 2 dimensions, got ", x.dim(),
                  " and ", in_weight.dim());
  const Shape shape{x.size(0), x.size(1), x.size(2), x.size(3)};
  const int64_t dim = shape[3], inter = in_weight.size(0);
  const int64_t local = static_cast<int64_t>(factors.size()) * (inter / 2);
  STD_TORCH_CHECK(dim % 8 == 0 && inter % 8 == 0 && local % 8 == 0,
                  "x, in_weight, out_weight: expected multiples of 8 channels, got ", dim, ", ", inter, ", ", local);
  FusedBlock block{dense("x", x, x, shape),
                   std::nullopt,
                   Linear("in_weight, in_bias", in_weight, in_bias, x, inter, dim),
                   Linear("out_weight, out_bias", out_weight, out_bias, x, dim, local),
                   Linear("pool_weight, pool_bias", pool_weight, pool_bias, x, dim, dim),
                   Inputs(torch::stable::new_empty(x, {shape[0], shape[1], shape[2], inter}), weight, bias,
                          std::move(factors), gate, gate_scale)};
  if (residual) block.residual = dense("residual", *residual, x, shape);
  const FusedBlockProblem problem{plan_problem_of(block.pyramid), dim};
  if (block.pyramid.empty()) return torch::stable::new_empty(x, shape);
  const ElementType type = problem.pyramid.type;
  STD_TORCH_CHECK(type != ElementType::kFloat32, "x: expected float16 or bfloat16, got float32");
  return type == ElementType::kFloat16 ? launch_on<Half>(block, problem) : launch_on<BFloat16>(block, problem);
}

}  // namespace
}  // namespace deltaconv::cuda

STABLE_TORCH_LIBRARY_IMPL(DELTACONV_NAMESPACE, CUDA, library) {
  library.impl("block_cuda", TORCH_BOX(&deltaconv::cuda::block_cuda));
}

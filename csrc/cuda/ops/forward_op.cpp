#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda/ops/device_properties.h"
#include "cuda/ops/launch.h"
#include "cuda/ops/stream.h"
#include "cuda/ops/tensors.h"
#include "cuda/plan/remembered.h"

namespace deltaconv::cuda {
namespace {

template <class T>
void launch_on(const Inputs& inputs, const PlanProblem& plan, const std::optional<Tensor>& residual,
               const Tensor& result) {
  const int32_t device = inputs.x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Image<const T> residual_image = residual ? image_of<const T>(*residual) : Image<const T>{nullptr, 0, 0, 0};
  const bool vectors = rows_aligned(residual_image) && rows_aligned(image_of<const T>(result));
  const ForwardArguments<T> arguments{problem_of<T>(inputs, vectors), residual_image,
                                      static_cast<T*>(result.mutable_data_ptr())};
  launch_forward(remembered_forward_plan(plan, device_properties(device)), arguments, current_stream(device));
}

Tensor pyramid_cuda(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                    std::vector<int64_t> factors, int64_t gate, double gate_scale,
                    const std::optional<Tensor>& residual) {
  const Inputs inputs(x, weight, bias, std::move(factors), gate, gate_scale);
  const PlanProblem plan = plan_problem_of(inputs);
  const Sizes& sizes = inputs.sizes;
  const int64_t channels = sizes.S * (sizes.C / 2);
  std::optional<Tensor> dense_residual;
  if (residual) {
    check_image("residual", *residual, inputs, channels);
    dense_residual = with_dense_channels(*residual);
  }
  const Tensor result = torch::stable::new_empty(inputs.x, {sizes.B, sizes.H, sizes.W, channels});
  if (inputs.empty()) return result;
  with_element(plan.type, [&](auto element) { launch_on<decltype(element)>(inputs, plan, dense_residual, result); });
  return result;
}

}  // namespace
}  // namespace deltaconv::cuda

STABLE_TORCH_LIBRARY_IMPL(DELTACONV_NAMESPACE, CUDA, library) {
  library.impl("pyramid_cuda", TORCH_BOX(&deltaconv::cuda::pyramid_cuda));
}

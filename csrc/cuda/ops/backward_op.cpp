#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda/ops/device_properties.h"
#include "cuda/ops/launch.h"
#include "cuda/ops/stream.h"
#include "cuda/ops/tensors.h"
#include "cuda/plan/remembered.h"

namespace deltaconv::cuda {
namespace {

struct Gradients {
  Tensor x, weight, bias;  // shape [0] where not wanted
};

template <class T>
T* data_or_null(const Tensor& tensor) {
  return tensor.numel() > 0 ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

template <class T>
void launch_on(const Inputs& inputs, const PlanProblem& problem, const Tensor& grad, const Gradients& gradients) {
  const int32_t device = inputs.x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const BackwardPlan& plan = remembered_backward_plan(problem, device_properties(device));
  const Tensor workspace = torch::stable::new_empty(inputs.x, {plan.workspace.size}, ScalarType::Float);
  BackwardArguments<T> arguments{};
  arguments.grad = image_of<const T>(grad);
  arguments.problem = problem_of<T>(inputs, rows_aligned(arguments.grad));
  arguments.grad_x = data_or_null<T>(gradients.x);
  arguments.workspace = static_cast<float*>(workspace.mutable_data_ptr());
  launch_backward(plan, arguments, data_or_null<T>(gradients.weight), data_or_null<T>(gradients.bias),
                  current_stream(device));
}

std::tuple<Tensor, Tensor, Tensor> pyramid_backward_cuda(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                         const std::optional<Tensor>& bias,
                                                         std::vector<int64_t> factors, int64_t gate, double gate_scale,
                                                         std::vector<bool> output_mask) {
  const Inputs inputs(x, weight, bias, std::move(factors), gate, gate_scale);
  const PlanProblem problem = plan_problem_of(inputs);
  const Sizes& sizes = inputs.sizes;
  check_image("grad", grad, inputs, sizes.S * (sizes.C / 2));
  STD_TORCH_CHECK(output_mask.size() == 3, "output_mask: expected 3 entries, got ", output_mask.size());
  const auto wanted = [&](bool is, const Tensor& like) {
    return is ? torch::stable::new_empty(inputs.x, like.sizes()) : torch::stable::new_empty(inputs.x, {0});
  };
  const Gradients gradients{wanted(output_mask[0], inputs.x), wanted(output_mask[1], inputs.weight),
                            wanted(output_mask[2] && bias, bias ? *inputs.bias : inputs.x)};
  if (inputs.empty()) {
    for (Tensor gradient : {gradients.weight, gradients.bias}) torch::stable::zero_(gradient);
  } else {
    const Tensor dense_grad = with_dense_channels(grad);
    with_element(problem.type,
                 [&](auto element) { launch_on<decltype(element)>(inputs, problem, dense_grad, gradients); });
  }
  return {gradients.x, gradients.weight, gradients.bias};
}

}  // namespace
}  // namespace deltaconv::cuda

STABLE_TORCH_LIBRARY_IMPL(DELTACONV_NAMESPACE, CUDA, library) {
  library.impl("pyramid_backward_cuda", TORCH_BOX(&deltaconv::cuda::pyramid_backward_cuda));
}

// From tensors to a problem: what the kernels rely on is checked, and the storage type becomes a template
// argument.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "cuda/plan.h"
#include "cuda/problem.h"

namespace deltaconv::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The arguments that forward and backward share, checked. Tensors have dense channels; weight and bias are
// contiguous.
struct Inputs {
  Inputs(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
         std::vector<int64_t> factors, int64_t gate, double gate_scale);

  int32_t device() const { return x.get_device_index(); }

  // `vectors`: the other tensors of the launch allow 16-byte accesses.
  template <class T>
  Problem<T> problem(bool vectors) const;

  Tensor x, weight;
  std::optional<Tensor> bias;
  Gate gate;
  double gate_scale;
  PlanProblem plan;
};

// Itself, or a copy whose last axis is dense.
Tensor with_dense_channels(const Tensor& tensor);

// A tensor of shape [B, H, W, channels] and x's dtype and device.
void check_image(const char* name, const Tensor& tensor, const Inputs& inputs, int64_t channels);

// The stream that torch's kernels run on.
Stream current_stream(int32_t device);

template <class T>
Image<const T> image_of(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1),
          tensor.stride(2)};
}

template <class T>
Problem<T> Inputs::problem(bool vectors) const {
  const Image<const T> image = image_of<T>(x);
  const auto* weights = static_cast<const T*>(weight.const_data_ptr());
  const bool aligned = reinterpret_cast<uintptr_t>(weights) % 16 == 0 && rows_aligned(image);
  return {plan.sizes,
          gate,
          static_cast<float>(gate_scale),
          vectors && aligned && plan.sizes.C / 2 % (16 / sizeof(T)) == 0,
          0,
          {},
          image,
          weights,
          bias ? static_cast<const T*>(bias->const_data_ptr()) : nullptr};
}

// Calls launch with a value of the tensors' storage type.
template <class Launch>
void with_element(ElementType type, const Launch& launch) {
  switch (type) {
    case ElementType::kFloat32: return launch(float{});
    case ElementType::kFloat16: return launch(Half{});
    case ElementType::kBFloat16: return launch(BFloat16{});
  }
}

}  // namespace deltaconv::cuda

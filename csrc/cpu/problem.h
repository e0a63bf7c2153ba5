// From tensors to a Problem: what the kernels rely on is checked, and the storage type becomes a template
// argument.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "cpu/instruction_sets.h"
#include "cpu/resampling.h"

namespace deltaconv::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The arguments that forward and backward share, checked. Tensors have dense channels; weight and bias are
// contiguous.
struct Inputs {
  Inputs(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
         std::vector<int64_t> factors, int64_t gate, double gate_scale);

  template <class T>
  Problem<T> problem(const StagePlans<Accumulator<T>>& stages) const;

  bool empty() const { return sizes.B == 0; }

  Tensor x, weight;
  std::optional<Tensor> bias;
  std::vector<int64_t> factors;
  Gate gate;
  double gate_scale;
  Sizes sizes;
};

// Itself, or a copy whose last axis is dense.
Tensor with_dense_channels(const Tensor& tensor);

// A tensor of shape [B, H, W, channels] and x's dtype, on the CPU.
void check_image(const char* name, const Tensor& tensor, const Inputs& inputs, int64_t channels);

template <class T>
Image<T> image_of(const Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

template <class T>
Image<const T> const_image_of(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1),
          tensor.stride(2)};
}

template <class T>
Problem<T> Inputs::problem(const StagePlans<Accumulator<T>>& stages) const {
  return {sizes,
          gate,
          static_cast<Accumulator<T>>(gate_scale),
          stages.data(),
          const_image_of<T>(x),
          static_cast<const T*>(weight.const_data_ptr()),
          bias ? static_cast<const T*>(bias->const_data_ptr()) : nullptr};
}

// Calls launch(kernels) with the Kernels<T> of this tensor's storage type T in the instruction set in use.
template <class Launch>
void dispatch(const Tensor& tensor, const Launch& launch) {
  const InstructionSet& set = instruction_set();
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return launch(set.float32);
    case ScalarType::Double: return launch(set.float64);
    case ScalarType::Half: return launch(set.float16);
    case ScalarType::BFloat16: return launch(set.bfloat16);
    default:
      STD_TORCH_CHECK(false, "x: expected float32, float64, float16 or bfloat16, got ",
                      toString(tensor.scalar_type()));
  }
}

}  // namespace deltaconv::cpu

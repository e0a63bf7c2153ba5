// The operators' tensors, checked: what the kernels of every native backend rely on.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "pyramid.h"

namespace deltaconv {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The arguments that forward and backward share. Tensors have dense channels; weight and bias are contiguous.
struct Inputs {
  Inputs(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, std::vector<int64_t> factors,
         int64_t gate, double gate_scale);

  bool empty() const { return sizes.B == 0; }

  Tensor x, weight;
  std::optional<Tensor> bias;
  std::vector<int64_t> factors;
  Gate gate;
  double gate_scale;
  Sizes sizes;
};

// The tensor itself, or a copy whose last axis is dense.
Tensor with_dense_channels(const Tensor& tensor);

// Checks that the tensor has shape [B, H, W, channels] and x's dtype and device.
void check_image(const char* name, const Tensor& tensor, const Inputs& inputs, int64_t channels);

}  // namespace deltaconv

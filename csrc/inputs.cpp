#include "inputs.h"

#include <algorithm>
#include <limits>

namespace deltaconv {
namespace {

Gate check_gate(int64_t gate) {
  STD_TORCH_CHECK(gate == 0 || gate == 1, "gate: expected 0 (scaled) or 1 (sigmoid), got ", gate);
  return static_cast<Gate>(gate);
}

void check_kind(const char* name, const Tensor& tensor, const Tensor& x, int64_t dims) {
  STD_TORCH_CHECK(tensor.is_cpu() == x.is_cpu() && tensor.get_device_index() == x.get_device_index(), name,
                  ": expected a tensor on the device of x");
  STD_TORCH_CHECK(tensor.scalar_type() == x.scalar_type(), name, ": expected the dtype of x, ",
                  toString(x.scalar_type()), ", got ", toString(tensor.scalar_type()));
  STD_TORCH_CHECK(tensor.dim() == dims, name, ": expected ", dims, " dimensions, got ", tensor.dim());
}

Sizes check_sizes(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                  const std::vector<int64_t>& factors) {
  check_kind("x", x, x, 4);
  check_kind("weight", weight, x, 4);
  const Sizes sizes{x.size(0), x.size(1), x.size(2), x.size(3), weight.size(0), weight.size(1)};
  STD_TORCH_CHECK(sizes.C % 2 == 0, "x: expected an even number of channels, got ", sizes.C);
  STD_TORCH_CHECK(sizes.H < std::numeric_limits<int32_t>::max() && sizes.W < std::numeric_limits<int32_t>::max(),
                  "x: height and width must fit 32 bits");
  STD_TORCH_CHECK(sizes.K % 2 == 1 && sizes.K <= 31, "weight: expected an odd K up to 31, got ", sizes.K);
  STD_TORCH_CHECK(weight.size(2) == sizes.K && weight.size(3) == sizes.C, "weight: expected [S, K, K, C]");
  STD_TORCH_CHECK(static_cast<int64_t>(factors.size()) == sizes.S, "factors: expected ", sizes.S, ", got ",
                  factors.size());
  for (const int64_t factor : factors) {
    STD_TORCH_CHECK(factor >= 1 && factor <= std::min(sizes.H, sizes.W), "factors: expected 1 to min(H, W), got ",
                    factor);
  }
  if (bias) {
    check_kind("bias", *bias, x, 2);
    STD_TORCH_CHECK(bias->size(0) == sizes.S && bias->size(1) == sizes.C, "bias: expected [S, C]");
  }
  return sizes;
}

}  // namespace

Inputs::Inputs(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, std::vector<int64_t> factors,
               int64_t gate, double gate_scale)
    : x(with_dense_channels(x)),
      weight(torch::stable::contiguous(weight)),
      factors(std::move(factors)),
      gate(check_gate(gate)),
      gate_scale(gate_scale),
      sizes(check_sizes(x, weight, bias, this->factors)) {
  if (bias) this->bias = torch::stable::contiguous(*bias);
}

Tensor with_dense_channels(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  const bool dense = last >= 0 && (tensor.stride(last) == 1 || tensor.size(last) == 1);
  return dense ? tensor : torch::stable::contiguous(tensor);
}

void check_image(const char* name, const Tensor& tensor, const Inputs& inputs, int64_t channels) {
  check_kind(name, tensor, inputs.x, 4);
  const Sizes& sizes = inputs.sizes;
  STD_TORCH_CHECK(
      tensor.size(0) == sizes.B && tensor.size(1) == sizes.H && tensor.size(2) == sizes.W && tensor.size(3) == channels,
      name, ": expected shape [", sizes.B, ", ", sizes.H, ", ", sizes.W, ", ", channels, "]");
}

}  // namespace deltaconv

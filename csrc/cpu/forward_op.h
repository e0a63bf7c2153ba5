// The forward operator of this backend: what deltaconv::pyramid_cpu is.
#pragma once

#include <optional>
#include <vector>

#include "inputs.h"

namespace deltaconv::cpu {

Tensor pyramid_cpu(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   std::vector<int64_t> factors, int64_t gate, double gate_scale,
                   const std::optional<Tensor>& residual);

}  // namespace deltaconv::cpu

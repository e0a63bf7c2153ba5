// The gate and its derivative, for one result.
#pragma once

#include "cuda/device/device.h"
#include "cuda/layout/problem.h"

namespace deltaconv::cuda {

DELTACONV_DEVICE float sigmoid(float x) { return reciprocal(1.0f + exponential(-x)); }

DELTACONV_DEVICE float apply_gate(Gate gate, float scale, float u, float v) {
  const float opened = scale * v;
  return u * (gate == Gate::kScaled ? opened : sigmoid(opened));
}

struct GateGradient {
  float u, v;
};

DELTACONV_DEVICE GateGradient gate_gradient(Gate gate, float scale, float grad, float u, float v) {
  if (gate == Gate::kScaled) return {grad * (scale * v), grad * (scale * u)};
  const float opened = sigmoid(scale * v);
  return {grad * opened, grad * u * (scale * opened * (1.0f - opened))};
}

}  // namespace deltaconv::cuda

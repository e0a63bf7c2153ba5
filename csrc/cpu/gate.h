// The gate and its derivative, on vectors.
#pragma once

#include "cpu/simd.h"

namespace deltaconv::cpu::DELTACONV_ISA {

// e^x within 2 ulp: 2^n * p(r) with |r| <= ln(2) / 2. NaN stays NaN.
DELTACONV_INLINE Floats exponential(Floats x) {
  const Floats low = broadcast(-87.0f), high = broadcast(88.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Floats magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = x * 1.44269504088896341f + magic;
  const Floats n = shifted - magic;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln(2) in two parts
  Floats p = broadcast(1.9875691500e-4f);                        // Cephes' expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Words exponent = (reinterpret<Words>(shifted) + 127u) << 23;
  return p * reinterpret<Floats>(exponent);
}

DELTACONV_INLINE Vector<double> exponential(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

template <class V>
DELTACONV_INLINE V sigmoid(V x) {
  return 1 / (1 + exponential(-x));
}

template <Gate gate, class V, class A>
DELTACONV_INLINE V apply_gate(V u, V v, A scale) {
  const V opened = v * scale;
  return u * (gate == Gate::kScaled ? opened : sigmoid(opened));
}

template <class V>
struct GateGradient {
  V u, v;
};

template <Gate gate, class V, class A>
DELTACONV_INLINE GateGradient<V> gate_gradient(V grad, V u, V v, A scale) {
  if constexpr (gate == Gate::kScaled) {
    const V scaled = grad * scale;
    return {scaled * v, scaled * u};
  } else {
    const V opened = sigmoid(v * scale);
    return {grad * opened, grad * u * (opened * (1 - opened) * scale)};
  }
}

}  // namespace deltaconv::cpu::DELTACONV_ISA

// The problem that every native backend solves: sizes, stages, gate. See docs/operator.md for the contract.
#pragma once

#include <cstdint>

namespace deltaconv {

// By its index in deltaconv_kernels.reference.GATES.
enum class Gate : int {
  kScaled = 0,   // u * (gate_scale * v)
  kSigmoid = 1,  // u * sigmoid(gate_scale * v)
};

// x is [B, H, W, C], weight [S, K, K, C]; the result is [B, H, W, S * C / 2].
struct Sizes {
  int64_t B, H, W, C, S, K;  // channel c is gated by channel c + C / 2
};

}  // namespace deltaconv

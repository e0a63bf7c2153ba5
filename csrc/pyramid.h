// The problem that every native backend solves, and the plain data that describes it. docs/operator.md is the contract.
#pragma once

#include <cstdint>

namespace deltaconv {

// The index of a gate in deltaconv_kernels.reference.GATES.
enum class Gate : int {
  kScaled = 0,   // u * (gate_scale * v)
  kSigmoid = 1,  // u * sigmoid(gate_scale * v)
};

// x is [B, H, W, C], weight [S, K, K, C]; the result is [B, H, W, S * C / 2].
struct Sizes {
  int64_t B, H, W, C, S, K;  // channel c is gated by channel c + C / 2
};

// A [B, H, W, channels] tensor. Strides are in elements; the channels' stride is 1.
template <class P>
struct Image {
  P* data;
  int64_t batch_stride, row_stride, col_stride;
};

// Storage types of 16 bits. Values are widened to float32 when they are loaded, and rounded once when they are stored.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

}  // namespace deltaconv

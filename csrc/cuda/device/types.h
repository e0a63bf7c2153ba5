// Plain types that both sides of the device layer share.
#pragma once

#include <cstdint>

namespace deltaconv::cuda {

inline constexpr int kWarp = 32;

// Storage types of 16 bits; arithmetic is float32.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The widest access of a thread.
struct alignas(16) Quad {
  uint32_t words[4];
};

// A cudaStream_t; nothing on the host.
using Stream = void*;

// A one-dimensional grid of one-dimensional blocks.
struct Grid {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
};

}  // namespace deltaconv::cuda

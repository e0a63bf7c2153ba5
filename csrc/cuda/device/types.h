// Plain types that both sides of the device layer share.
#pragma once

#include <cstdint>

#include "pyramid.h"

namespace deltaconv::cuda {

inline constexpr int kWarp = 32;

// The widest access of a thread.
struct alignas(16) Quad {
  uint32_t words[4];
};

// A cudaStream_t; the host build ignores it.
using Stream = void*;

// A one-dimensional grid of one-dimensional CTAs.
struct Grid {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
};

}  // namespace deltaconv::cuda

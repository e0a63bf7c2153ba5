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

// Neighbouring values that a thread reads or writes at once.
struct alignas(8) WordPair {
  uint32_t words[2];
};
struct alignas(8) FloatPair {
  float values[2];
};
struct alignas(16) FloatQuad {
  float values[4];
};

// Where a launch goes.
struct Stream {
  void* handle = nullptr;  // a cudaStream_t; the host build ignores it

  // Whether the launch before it in the stream is one of ours, of the same call: from compute capability 9.0 on, a
  // launch that follows is brought onto the GPU while the one before it ends (programmatic dependent launch).
  bool follows = false;

  Stream following() const { return {handle, true}; }
};

// A one-dimensional grid of one-dimensional CTAs.
struct Grid {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
};

}  // namespace deltaconv::cuda

// The thin layer that the kernels of csrc/cuda are written on. nvcc maps it to the GPU (gpu.h); any C++
// compiler maps it to a host build that runs one thread block at a time on the CPU (host.h), for tests and
// sanitizers.
//
// A kernel is a struct with `static constexpr int kMaxThreads, kMinBlocks` (its __launch_bounds__) and
// `static DELTACONV_DEVICE void run(const Arguments&)`; launch<Kernel>(grid, arguments, stream) runs it on a
// one-dimensional grid of one-dimensional blocks. What both sides provide:
//
//   thread_index() thread_count() block_index() block_count() lane_index() warp_index()
//   fresh_lane_index()             lane_index(), read again: what is computed from it takes no registers
//   before shared_memory()                the block's dynamic shared memory, 128-byte aligned, uninitialised
//   sync_block() sync_warp()       barriers; they order memory
//   shuffle_xor(value, mask) shuffle(value, lane)      of a full warp; they do not order memory
//   load16(p) store16(p, quad)     16 aligned bytes, global or shared
//   load16_constant(p) load_constant(p)     from global memory that nothing writes, through the read-only
//   path copy16_async(to, from, valid)  16 bytes global -> shared, zeros if not valid; visible to the issuing
//   thread commit_copies() wait_copies<N>()        only after wait_copies, and to the block after a barrier
//   too to_float(t) from_float<T>(f)   of float, Half, BFloat16 fused_multiply_add(a, b, c) exponential(x)
//   reciprocal(x)                  to 2 units in the last place; 0 from 2^126 on
#pragma once

#include "cuda/device/types.h"

#if defined(__CUDACC__)
#include "cuda/device/gpu.h"
#else
#include "cuda/device/host.h"
#endif

namespace deltaconv::cuda {

DELTACONV_DEVICE int lane_index() { return thread_index() % kWarp; }
DELTACONV_DEVICE int fresh_lane_index() { return fresh(thread_index()) % kWarp; }
DELTACONV_DEVICE int warp_index() { return thread_index() / kWarp; }

// 16 / sizeof(T) values of a quad as float32, and back.
template <class T>
inline constexpr int kQuadValues = 16 / int(sizeof(T));

template <class T>
DELTACONV_DEVICE void unpack(const Quad& quad, float (&values)[kQuadValues<T>]) {
  DELTACONV_UNROLL
  for (int i = 0; i < kQuadValues<T>; ++i) {
    if constexpr (sizeof(T) == 4) {
      values[i] = bits_to_float(quad.words[i]);
    } else {
      values[i] = to_float(T{static_cast<uint16_t>(quad.words[i / 2] >> (i % 2 * 16))});
    }
  }
}

template <class T>
DELTACONV_DEVICE Quad pack(const float (&values)[kQuadValues<T>]) {
  Quad quad;
  DELTACONV_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      quad.words[i] = float_to_bits(values[i]);
    } else {
      quad.words[i] = uint32_t(from_float<T>(values[2 * i]).bits) | uint32_t(from_float<T>(values[2 * i + 1]).bits)
                                                                        << 16;
    }
  }
  return quad;
}

}  // namespace deltaconv::cuda

// The thin layer that the kernels of csrc/cuda are written on. nvcc maps it to the GPU (gpu.h). Any C++ compiler maps
// it to a host build that runs one CTA at a time on the CPU (host.h), for tests and sanitizers.
//
// A CTA is a thread block. The functions below keep CUDA's word "block" for it; a fused block, a channel block and a
// fragment of a matrix are always called by their full names.
//
// A kernel is a struct with `static constexpr int kMaxThreads, kMinBlocks` (its __launch_bounds__) and `static
// DELTACONV_DEVICE void run(const Arguments&)`; launch<Kernel>(grid, arguments, stream) runs it on a one-dimensional
// grid of one-dimensional CTAs. A kernel begins when the launches before it have ended, whatever the stream says of
// following them. Both sides provide:
//
//   thread_index() thread_count()      in the CTA
//   block_index() block_count()        of the CTA, in the grid
//   lane_index() warp_index()          of the thread, in its warp; of the warp, in the CTA
//   fresh(value)                       the value, of which the compiler forgets how it was computed; see below
//   fresh_lane_index()                 lane_index() from a fresh thread index
//   shared_memory()                    the CTA's dynamic shared memory, 128-byte aligned, uninitialised
//   sync_block() sync_warp()           barriers, which order memory
//   shuffle_xor(value, mask)           exchanges registers in a full warp; does not order memory
//   shuffle(value, lane)               as shuffle_xor, from any lane
//   warp_max<lanes>(value)             the largest value among groups of `lanes` neighbouring lanes, in all of them
//   load16(p) store16(p, quad)         16 aligned bytes of global or shared memory
//   store16_global(p, quad)            16 aligned bytes of global memory, in one access for certain
//   load16_constant(p)                 16 aligned bytes of global memory that nothing writes, by the read-only path
//   load_constant(p)                   one value of such memory
//   copy16_async<N>(to, from, valid)   16 bytes from global to shared memory, N bytes behind `to`, zeros if not valid
//   commit_copies() wait_copies<N>()   close a group of copies; wait until at most N groups are in flight. The thread
//                                      that issued a copy sees it after the wait, the CTA after a barrier too.
//   to_float(t) from_float<T>(f)       conversions of float, Half, BFloat16; from_float rounds to nearest, ties to even
//   pack_pair<T>(low, high)            two values rounded to a 16-bit type, in one word
//   unpack_pair<T>(word, low, high)    the two values of such a word
//   join_bits(low, high)               two 16-bit patterns in one word
//   join_low(a, b) join_high(a, b)     the low (high) halves of two words in one word, a's in its low half
//   fused_multiply_add(a, b, c)        a * b + c
//   exponential(x)
//   reciprocal(x)                      to 2 units in the last place; 0 from 2^126 on
//
// fresh() saves registers. A kernel reads its thread index at its head, and nvcc keeps everything that it can
// derive from the index (lane, row, column, addresses) in registers across the main loop, to use it again behind
// the loop. A fresh value has no history, so that nvcc computes those numbers where they are used, and the loop
// has their registers.
#pragma once

#include "cuda/device/types.h"

#if defined(__CUDACC__)
#include "cuda/device/gpu.h"
#else
#include "cuda/device/host.h"
#endif

namespace deltaconv::cuda {

// Remainders and quotients of unsigned numbers take one instruction, those of signed numbers four.
DELTACONV_DEVICE int lane_of(int thread) { return static_cast<int>(static_cast<uint32_t>(thread) % kWarp); }
DELTACONV_DEVICE int warp_of(int thread) { return static_cast<int>(static_cast<uint32_t>(thread) / kWarp); }

DELTACONV_DEVICE int lane_index() { return lane_of(thread_index()); }
DELTACONV_DEVICE int fresh_lane_index() { return lane_of(fresh(thread_index())); }
DELTACONV_DEVICE int warp_index() { return warp_of(thread_index()); }

// The largest of `value` among the kGroup lanes that differ in their last bits alone.
template <int kGroup = kWarp>
DELTACONV_DEVICE float warp_max(float value) {
  DELTACONV_UNROLL
  for (int mask = kGroup / 2; mask > 0; mask /= 2) {
    const float other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

DELTACONV_DEVICE uint32_t join_bits(uint16_t low, uint16_t high) { return uint32_t(low) | uint32_t(high) << 16; }

// How many values of type T a quad holds.
template <class T>
inline constexpr int kQuadValues = 16 / int(sizeof(T));

template <class T>
DELTACONV_DEVICE void unpack(const Quad& quad, float (&values)[kQuadValues<T>]) {
  DELTACONV_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      values[i] = bits_to_float(quad.words[i]);
    } else {
      unpack_pair<T>(quad.words[i], values[2 * i], values[2 * i + 1]);
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
      quad.words[i] = pack_pair<T>(values[2 * i], values[2 * i + 1]);
    }
  }
  return quad;
}

}  // namespace deltaconv::cuda

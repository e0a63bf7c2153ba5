// The device layer on the host. Each thread of a CTA is a fiber that gives way at barriers and warp collectives; one
// CTA runs after the other, all on the calling OS thread. device.h says what the layer provides.
//
// The host is stricter than a GPU. Shared memory is full of NaN before each CTA and exactly as large as the launch asks
// for. A misaligned 16-byte access aborts, and so does a barrier that some thread of the CTA never reaches. An async
// copy happens at the wait and not before. Fibers do not order memory for ThreadSanitizer; only barriers do.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include "cuda/device/types.h"

#define DELTACONV_DEVICE inline
#define DELTACONV_UNROLL
#define DELTACONV_NO_UNROLL

namespace deltaconv::cuda {

namespace host {

struct AsyncCopy {
  void* to;
  const void* from;  // null: zeros
};

// What a running fiber knows of itself.
struct Thread {
  int index = 0;
  int64_t barriers = 0;                        // reached so far in this CTA
  std::vector<AsyncCopy> uncommitted;          // async copies of the open group
  std::deque<std::vector<AsyncCopy>> pending;  // committed groups, oldest first
};

struct RunningBlock {
  int64_t index, count;  // in the grid
  int threads;
  std::byte* shared;
};

extern Thread* thread;
extern RunningBlock block;

struct Options {
  int64_t dropped_barrier = -1;  // this sync_block() of every thread does nothing: a test of the tests
  int64_t dropped_launch = -1;   // in this launch alone; -1: in all
  bool descending = false;       // CTAs run in descending order: their order must not matter
};
extern Options options;

// Counts of all launches of the process.
struct Statistics {
  std::vector<int64_t> barriers;  // for each launch, the most barriers that a CTA reached
};
extern Statistics statistics;

// A launch as another executor of the same kernel needs it: the source file that instantiates the kernel, and the
// mangled names of the types.
struct LaunchRequest {
  const char *source, *kernel, *arguments_type;
  Grid grid;
  bool follows;  // another launch, which may still run
  const void* arguments;
  size_t argument_bytes;
};
extern std::function<void(const LaunchRequest&)> launcher;  // runs launches in this build's place, if set

void wait_for_block();
void wait_for_warp();
// True for the lane that arrives last, which must then call release_warp(); false for the others, after that.
bool arrive_last_in_warp();
void release_warp();
// Memory of the warp's lanes for one collective, kSlotBytes each; a lane asks for it before it arrives. There are two
// such areas, used in turn, because a lane may be one collective ahead of the slowest.
std::byte* warp_slots();
inline constexpr int kSlotBytes = 256;

void run_grid(const Grid& grid, void (*entry)(const void*), const void* arguments);

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "deltaconv host build: %s (block %lld, thread %d)\n", what, static_cast<long long>(block.index),
               thread ? thread->index : -1);
  std::abort();
}

// ThreadSanitizer must not take the exchange of registers between lanes for memory that the kernel shares.
struct UntracedExchange {
  UntracedExchange();
  ~UntracedExchange();
};

inline void check_aligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) fail("16-byte access to a misaligned address");
}

}  // namespace host

inline int thread_index() { return host::thread->index; }
inline int thread_count() { return host::block.threads; }
inline int64_t block_index() { return host::block.index; }
inline int64_t block_count() { return host::block.count; }
inline int fresh(int value) { return value; }
inline std::byte* shared_memory() { return host::block.shared; }

inline void sync_block() { host::wait_for_block(); }
inline void sync_warp() { host::wait_for_warp(); }

// A collective of a full warp: compute(inputs, outputs) runs once, on all lanes' inputs in lane order.
template <class Out, class In, class Compute>
Out warp_collective(const In& mine, const Compute& compute) {
  static_assert(std::is_trivially_copyable_v<In> && std::is_trivially_copyable_v<Out>);
  static_assert(sizeof(In) + sizeof(Out) <= host::kSlotBytes);
  host::UntracedExchange untraced;
  const int lane = host::thread->index % kWarp;
  std::byte* slots = host::warp_slots();
  In* inputs = reinterpret_cast<In*>(slots);
  Out* outputs = reinterpret_cast<Out*>(slots + kWarp * sizeof(In));
  std::memcpy(&inputs[lane], &mine, sizeof(In));
  if (host::arrive_last_in_warp()) {
    compute(static_cast<const In*>(inputs), outputs);
    host::release_warp();
  }
  Out out;
  std::memcpy(&out, &outputs[lane], sizeof(Out));
  return out;
}

template <class T>
T shuffle_xor(T value, int mask) {
  return warp_collective<T>(value, [mask](const T* in, T* out) {
    for (int lane = 0; lane < kWarp; ++lane) out[lane] = in[lane ^ mask];
  });
}
template <class T>
T shuffle(T value, int from) {
  struct Request {
    T value;
    int from;
  };
  return warp_collective<T>(Request{value, from}, [](const Request* in, T* out) {
    for (int lane = 0; lane < kWarp; ++lane) out[lane] = in[in[lane].from].value;
  });
}

inline Quad load16(const void* from) {
  host::check_aligned(from);
  Quad quad;
  std::memcpy(&quad, from, 16);
  return quad;
}
inline Quad load16_constant(const void* from) { return load16(from); }
template <class T>
T load_constant(const T* from) {
  return *from;
}
inline void store16(void* to, const Quad& quad) {
  host::check_aligned(to);
  std::memcpy(to, &quad, 16);
}
inline void store16_global(void* to, const Quad& quad) { store16(to, quad); }

template <int kOffset = 0>
void copy16_async(void* to, const void* from_global, bool valid) {
  std::byte* to_shared = static_cast<std::byte*>(to) + kOffset;
  host::check_aligned(to_shared);
  if (valid) host::check_aligned(from_global);
  store16(to_shared, {{~0u, ~0u, ~0u, ~0u}});  // NaN until the copy happens
  host::thread->uncommitted.push_back({to_shared, valid ? from_global : nullptr});
}
inline void commit_copies() {
  host::thread->pending.push_back(std::move(host::thread->uncommitted));
  host::thread->uncommitted.clear();
}
template <int kPending>
void wait_copies() {
  auto& pending = host::thread->pending;
  for (; pending.size() > kPending; pending.pop_front()) {
    for (const host::AsyncCopy& copy : pending.front()) {
      store16(copy.to, copy.from ? load16(copy.from) : Quad{});
    }
  }
}

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) { return bits_to_float(uint32_t(value.bits) << 16); }
inline float to_float(Half value) {
  const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  const bool finite = magnitude < 0x7c00u;
  const float scaled = bits_to_float(magnitude << 13) * 0x1p112f;  // exact, subnormals too
  return bits_to_float(sign | (finite ? float_to_bits(scaled) : 0x7f800000u | magnitude << 13));
}

// Rounds to nearest, ties to even, as the GPU does.
template <class T>
T from_float(float value) {
  if constexpr (std::is_same_v<T, Half>) {
    const uint32_t twice = float_to_bits(value) << 1;
    if (twice > 0xff000000u) return {0x7fff};
    // Adding a power of two 2^13 above the last bit that stays makes the addition round there.
    const uint32_t exponent = std::max(twice & 0xff000000u, 0x71000000u);
    const float scaled = std::fabs(value) * 0x1p112f * 0x1p-110f;
    const uint32_t rounded = float_to_bits(bits_to_float((exponent >> 1) + 0x07800000u) + scaled);
    const uint32_t bits = (rounded >> 13 & 0x7c00u) + (rounded & 0x0fffu);
    return {static_cast<uint16_t>(std::signbit(value) << 15 | bits)};
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    const uint32_t bits = float_to_bits(value);
    if (std::isnan(value)) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
  } else {
    return value;
  }
}

inline uint32_t join_low(uint32_t a, uint32_t b) { return (a & 0xffffu) | b << 16; }
inline uint32_t join_high(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); }
template <class T>
uint32_t pack_pair(float low, float high) {
  return uint32_t(from_float<T>(low).bits) | uint32_t(from_float<T>(high).bits) << 16;
}
template <class T>
void unpack_pair(uint32_t word, float& low, float& high) {
  low = to_float(T{static_cast<uint16_t>(word)});
  high = to_float(T{static_cast<uint16_t>(word >> 16)});
}

inline float fused_multiply_add(float a, float b, float c) { return a * b + c; }
inline float exponential(float x) { return std::exp(x); }
inline float reciprocal(float x) { return 1.0f / x; }

template <class Kernel, class Arguments>
void launch(const Grid& grid, const Arguments& arguments, Stream stream) {
  if (grid.blocks == 0) return;
  if (grid.threads > Kernel::kMaxThreads) host::fail("more threads than the kernel's launch bounds");
  if (host::launcher) {
    return host::launcher({__BASE_FILE__, typeid(Kernel).name(), typeid(Arguments).name(), grid, stream.follows,
                           &arguments, sizeof(Arguments)});
  }
  host::run_grid(grid, [](const void* a) { Kernel::run(*static_cast<const Arguments*>(a)); }, &arguments);
}

}  // namespace deltaconv::cuda

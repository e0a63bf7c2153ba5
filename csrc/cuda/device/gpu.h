// The device layer on a GPU of sm_80 or later. device.h says what the layer provides.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/device/types.h"

#define DELTACONV_DEVICE __device__ __forceinline__
#define DELTACONV_UNROLL _Pragma("unroll")
#define DELTACONV_NO_UNROLL _Pragma("unroll 1")

namespace deltaconv::cuda {

DELTACONV_DEVICE int thread_index() { return threadIdx.x; }
DELTACONV_DEVICE int thread_count() { return blockDim.x; }
DELTACONV_DEVICE int64_t block_index() { return blockIdx.x; }
DELTACONV_DEVICE int64_t block_count() { return gridDim.x; }

DELTACONV_DEVICE int fresh(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

DELTACONV_DEVICE std::byte* shared_memory() {
  extern __shared__ __align__(128) std::byte dynamic_shared_memory[];
  return dynamic_shared_memory;
}

DELTACONV_DEVICE void sync_block() { __syncthreads(); }
DELTACONV_DEVICE void sync_warp() { __syncwarp(); }

template <class T>
DELTACONV_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <class T>
DELTACONV_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}

DELTACONV_DEVICE Quad load16(const void* from) {
  const uint4 quad = *static_cast<const uint4*>(from);
  return {{quad.x, quad.y, quad.z, quad.w}};
}
DELTACONV_DEVICE Quad load16_constant(const void* from) {
  const uint4 quad = __ldg(static_cast<const uint4*>(from));
  return {{quad.x, quad.y, quad.z, quad.w}};
}
template <class T>
DELTACONV_DEVICE T load_constant(const T* from) {
  return __ldg(from);
}
DELTACONV_DEVICE void store16(void* to, const Quad& quad) {
  *static_cast<uint4*>(to) = make_uint4(quad.words[0], quad.words[1], quad.words[2], quad.words[3]);
}
// In assembly, because nvcc splits some of the other stores into four.
DELTACONV_DEVICE void store16_global(void* to, const Quad& quad) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(quad.words[0]),
               "r"(quad.words[1]), "r"(quad.words[2]), "r"(quad.words[3])
               : "memory");
}

template <int kOffset = 0>
DELTACONV_DEVICE void copy16_async(void* to_shared, const void* from_global, bool valid) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
  const int bytes = valid ? 16 : 0;  // the rest of the 16 bytes is filled with zeros
  asm volatile("cp.async.cg.shared.global [%0 + %3], [%1], 16, %2;" ::"r"(to), "l"(from_global), "r"(bytes),
               "n"(kOffset)
               : "memory");
}
DELTACONV_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
DELTACONV_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

DELTACONV_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
DELTACONV_DEVICE uint32_t float_to_bits(float value) { return __float_as_uint(value); }

DELTACONV_DEVICE float to_float(float value) { return value; }
DELTACONV_DEVICE float to_float(Half value) { return __half2float(__ushort_as_half(value.bits)); }
DELTACONV_DEVICE float to_float(BFloat16 value) { return __uint_as_float(uint32_t(value.bits) << 16); }

template <class T>
DELTACONV_DEVICE T from_float(float value) {
  if constexpr (std::is_same_v<T, Half>) {
    return {__half_as_ushort(__float2half_rn(value))};
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
  } else {
    return value;
  }
}

DELTACONV_DEVICE uint32_t join_low(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
DELTACONV_DEVICE uint32_t join_high(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }

// One instruction rounds both values.
template <class T>
DELTACONV_DEVICE uint32_t pack_pair(float low, float high) {
  uint32_t word;
  if constexpr (std::is_same_v<T, Half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  }
  return word;
}
template <class T>
DELTACONV_DEVICE void unpack_pair(uint32_t word, float& low, float& high) {
  if constexpr (std::is_same_v<T, Half>) {
    Half halves[2];
    asm("mov.b32 {%0, %1}, %2;" : "=h"(halves[0].bits), "=h"(halves[1].bits) : "r"(word));
    low = to_float(halves[0]);
    high = to_float(halves[1]);
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    // In assembly, whose instructions of untyped bits write float32 registers: no move is left for ptxas to remove.
    asm("shl.b32 %0, %1, 16;" : "=f"(low) : "r"(word));
    asm("and.b32 %0, %1, 0xffff0000;" : "=f"(high) : "r"(word));
  }
}

DELTACONV_DEVICE float fused_multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
DELTACONV_DEVICE float exponential(float x) { return expf(x); }
DELTACONV_DEVICE float reciprocal(float x) { return __fdividef(1.0f, x); }

// Lets the launch that follows come onto the GPU as soon as all CTAs of this one have begun, then waits until the
// launches before this one have ended and everybody sees what they wrote. Every CTA of every launch waits, so that
// whoever has waited for the launch before it has waited for all. Both are nothing where nothing follows.
DELTACONV_DEVICE void wait_for_earlier_launches() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
inline constexpr int kFirstPtxThatWaits = 90;

template <class Kernel, class Arguments>
__global__ void __launch_bounds__(Kernel::kMaxThreads, Kernel::kMinBlocks)
    pyramid_kernel(const __grid_constant__ Arguments arguments) {
  wait_for_earlier_launches();
  Kernel::run(arguments);
}

// An error is reported once: CUDA keeps the last one until somebody asks, and the next launch would report it again.
inline void check_launch(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string("deltaconv cuda: ") + what + ": " + cudaGetErrorString(error));
}

// Works once for each kernel and device. It allows a CTA all the shared memory that the device has beside the kernel's
// own, and makes the L1 cache give way to it, so that as many CTAs are resident as the plan expects. True if the kernel
// may follow another while that one ends: the code that this device runs was compiled to wait for it.
template <class Kernel, class Arguments>
bool prepare_kernel() {
  static std::atomic<uint64_t> prepared{0}, waiting{0};  // a bit for each device
  int device = 0, limit = 0;
  check_launch(cudaGetDevice(&device), "current device");
  const uint64_t bit = device < 64 ? uint64_t{1} << device : 0;
  if (prepared.load(std::memory_order_acquire) & bit) return waiting.load(std::memory_order_relaxed) & bit;
  const auto entry = pyramid_kernel<Kernel, Arguments>;
  cudaFuncAttributes attributes{};
  check_launch(cudaFuncGetAttributes(&attributes, entry), "kernel");
  check_launch(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory");
  const int dynamic = limit - static_cast<int>(attributes.sharedSizeBytes);
  check_launch(cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic), "shared memory");
  check_launch(
      cudaFuncSetAttribute(entry, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
      "shared memory");
  const bool waits = attributes.ptxVersion >= kFirstPtxThatWaits;
  if (waits) waiting.fetch_or(bit, std::memory_order_relaxed);
  prepared.fetch_or(bit, std::memory_order_release);
  return waits;
}

// cudaLaunchKernelExC returns this launch's own error; <<<>>> leaves the last one, whoever made it.
template <class Kernel, class Arguments>
void launch(const Grid& grid, const Arguments& arguments, Stream stream) {
  static_assert(sizeof(Arguments) <= 4096);  // what every driver passes to a kernel
  if (grid.blocks == 0) return;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream.handle);
  config.attrs = &overlap;
  config.numAttrs = prepare_kernel<Kernel, Arguments>() && stream.follows;
  void* parameters[] = {const_cast<Arguments*>(&arguments)};
  const auto entry = reinterpret_cast<const void*>(&pyramid_kernel<Kernel, Arguments>);
  check_launch(cudaLaunchKernelExC(&config, entry, parameters), "launch");
}

}  // namespace deltaconv::cuda

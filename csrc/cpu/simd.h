// Vectors of one register's width, by the compiler's vector extensions: x86 and ARM from one source. Only kernel files
// include it; they are compiled once for each instruction set, inside namespace DELTACONV_ISA.
#pragma once

#include <cstdint>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "cpu/problem.h"

#define DELTACONV_INLINE inline __attribute__((always_inline))
// Marks functions that loop over a row. Inlined into their callers they would share registers with all that
// stands around them.
#define DELTACONV_NOINLINE __attribute__((noinline))
// Marks lambdas, after their parameters. Clang calls some that GCC inlines, and vectors that they capture are then kept
// on the stack.
#define DELTACONV_INLINE_LAMBDA __attribute__((always_inline))

namespace deltaconv::cpu::DELTACONV_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kVectorRegisters = 32;
#else
inline constexpr int kVectorRegisters = 16;
#endif

template <class A>
inline constexpr int kLanes = kVectorBytes / int(sizeof(A));

template <class A, int N>
struct VectorOf {
  typedef A type __attribute__((vector_size(N * sizeof(A))));
};
template <class A>
using Vector = typename VectorOf<A, kLanes<A>>::type;

// Vectors of float32, and of integers with as many lanes, for the 16-bit conversions.
inline constexpr int kFloatLanes = kLanes<float>;
using Floats = Vector<float>;
using Ints = VectorOf<int32_t, kFloatLanes>::type;
using Words = VectorOf<uint32_t, kFloatLanes>::type;
using HalfWords = VectorOf<uint16_t, kFloatLanes>::type;

template <class V, class P>
DELTACONV_INLINE V read(const P* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <class V, class P>
DELTACONV_INLINE void write(P* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

// Prefetches into the second-level cache, where AMD's and Intel's hardware has room for many misses at once.
template <class P>
DELTACONV_INLINE void prefetch(const P* p) {
  __builtin_prefetch(p, 0, 2);
}

template <class To, class From>
DELTACONV_INLINE To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// Whether a vector of type T is a whole cache line, which can be written past the caches: nothing is read from memory
// first, and nothing is driven from the caches.
#if defined(__AVX512F__)
template <class T>
inline constexpr bool kStreams = sizeof(T) == sizeof(Accumulator<T>);
#else
template <class T>
inline constexpr bool kStreams = false;
#endif

// Writes a vector past the caches; p is a multiple of 64 bytes. run_tasks() orders such stores before what follows, at
// the end of a thread's tasks.
template <class T, class V>
DELTACONV_INLINE void stream([[maybe_unused]] T* p, [[maybe_unused]] V v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret<__m512i>(v));
#endif
}

// Keeps a value in a register where there are 32 of them. GCC would rather load it again for each use, and loads
// are the limit.
template <class V>
DELTACONV_INLINE V held(V v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#endif
  return v;
}

// Keeps the loads before it from those after it where there are 16 registers. Clang would do all loads of an unrolled
// loop first, and put sums on the stack for want of registers.
DELTACONV_INLINE void separate_loads() {
#if defined(__clang__)
  if constexpr (kVectorRegisters == 16) asm volatile("" ::: "memory");
#endif
}

template <class A>
DELTACONV_INLINE Vector<A> broadcast(A value) {
  return Vector<A>{} + value;
}

DELTACONV_INLINE Floats widen(HalfWords bits, BFloat16) {
  return reinterpret<Floats>(__builtin_convertvector(bits, Words) << 16);
}

DELTACONV_INLINE HalfWords narrow(Floats value, BFloat16) {
  const Words bits = reinterpret<Words>(value);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const Words quiet_nan = (bits >> 16) | 0x40u;
  const Words is_nan = reinterpret<Words>(value != value);
  return __builtin_convertvector((quiet_nan & is_nan) | (rounded & ~is_nan), HalfWords);
}

#if defined(__F16C__)

DELTACONV_INLINE Floats widen(HalfWords bits, Half) {
#if defined(__AVX512F__)
  // The masked form is used because GCC 12 warns of the undefined source of the unmasked one.
  return reinterpret<Floats>(_mm512_maskz_cvtph_ps(0xffff, reinterpret<__m256i>(bits)));
#else
  return reinterpret<Floats>(_mm256_cvtph_ps(reinterpret<__m128i>(bits)));
#endif
}

DELTACONV_INLINE HalfWords narrow(Floats value, Half) {
#if defined(__AVX512F__)
  return reinterpret<HalfWords>(_mm512_maskz_cvtps_ph(0xffff, reinterpret<__m512>(value), _MM_FROUND_TO_NEAREST_INT));
#else
  return reinterpret<HalfWords>(_mm256_cvtps_ph(reinterpret<__m256>(value), _MM_FROUND_TO_NEAREST_INT));
#endif
}

#else  // IEEE binary16 by integer arithmetic and one exact float operation

DELTACONV_INLINE Floats widen(HalfWords half, Half) {
  const Words bits = __builtin_convertvector(half, Words);
  const Words sign = (bits & 0x8000u) << 16;
  // The exponent field is moved as it is; multiplying by 2^112 corrects its bias, for subnormals too.
  const Floats scale = reinterpret<Floats>(Words{} + (uint32_t{254 - 15} << 23));
  const Floats magnitude = reinterpret<Floats>((bits & 0x7fffu) << 13) * scale;
  const Words not_finite = reinterpret<Words>((bits & 0x7c00u) == 0x7c00u) & (0xffu << 23);
  return reinterpret<Floats>(reinterpret<Words>(magnitude) | not_finite | sign);
}

DELTACONV_INLINE HalfWords narrow(Floats value, Half) {
  const Words all = reinterpret<Words>(value);
  const Words sign = (all >> 16) & 0x8000u;
  const Words bits = all & 0x7fffffffu;
  const Words normal = (bits - (uint32_t{112} << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  // Adding 0.5 leaves a subnormal's rounded bits at the bottom of the fraction.
  const Floats half = Floats{} + 0.5f;
  const Words subnormal = reinterpret<Words>(reinterpret<Floats>(bits) + half) - reinterpret<Words>(half);
  const Words is_subnormal = reinterpret<Words>(bits < (uint32_t{113} << 23));
  const Words overflows = reinterpret<Words>(bits >= 0x477ff000u);  // rounds to 65536 or more
  const Words is_nan = reinterpret<Words>(bits > 0x7f800000u);
  Words result = (subnormal & is_subnormal) | (normal & ~is_subnormal);
  result = (result & ~overflows) | (overflows & 0x7c00u) | (is_nan & 0x200u);
  return __builtin_convertvector(result | sign, HalfWords);
}

#endif

DELTACONV_INLINE Floats load(const float* p) { return read<Floats>(p); }
DELTACONV_INLINE Vector<double> load(const double* p) { return read<Vector<double>>(p); }
DELTACONV_INLINE Floats load(const BFloat16* p) { return widen(read<HalfWords>(p), BFloat16{}); }
DELTACONV_INLINE Floats load(const Half* p) { return widen(read<HalfWords>(p), Half{}); }

DELTACONV_INLINE Vector<double> load(const PreciseFloat* p) {
  return __builtin_convertvector(read<VectorOf<float, kLanes<double>>::type>(p), Vector<double>);
}

DELTACONV_INLINE void store(float* p, Floats v) { write(p, v); }
DELTACONV_INLINE void store(double* p, Vector<double> v) { write(p, v); }
DELTACONV_INLINE void store(PreciseFloat* p, Vector<double> v) {
  write(p, __builtin_convertvector(v, VectorOf<float, kLanes<double>>::type));
}
DELTACONV_INLINE void store(BFloat16* p, Floats v) { write(p, narrow(v, BFloat16{})); }
DELTACONV_INLINE void store(Half* p, Floats v) { write(p, narrow(v, Half{})); }

}  // namespace deltaconv::cpu::DELTACONV_ISA

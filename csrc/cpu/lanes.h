// Vectors of which only the first lanes are in memory: the last channels of a pixel.
#pragma once

#include "cpu/simd.h"

namespace deltaconv::cpu::DELTACONV_ISA {

// Goes by way of the stack, lane by lane: the processor waits there until narrow stores have reached the cache.
template <class T>
DELTACONV_INLINE Vector<Accumulator<T>> load_some(const T* p, int lanes) {
  T some[kLanes<Accumulator<T>>] = {};
  for (int i = 0; i < lanes; ++i) some[i] = p[i];
  return load(some);
}

template <class T>
DELTACONV_INLINE void store_some(T* p, Vector<Accumulator<T>> v, int lanes) {
  T all[kLanes<Accumulator<T>>];
  store(all, v);
  for (int i = 0; i < lanes; ++i) p[i] = all[i];
}

// Uses masks, one instruction each. Sanitizers do not see what such instructions touch, so that sanitized builds keep
// to the stack.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

#elif defined(__AVX512F__)

DELTACONV_INLINE uint32_t first_lanes(int lanes) { return (1u << lanes) - 1; }

DELTACONV_INLINE Floats load_some(const float* p, int lanes) {
  return reinterpret<Floats>(_mm512_maskz_loadu_ps(__mmask16(first_lanes(lanes)), p));
}
DELTACONV_INLINE Vector<double> load_some(const double* p, int lanes) {
  return reinterpret<Vector<double>>(_mm512_maskz_loadu_pd(__mmask8(first_lanes(lanes)), p));
}
DELTACONV_INLINE Vector<double> load_some(const PreciseFloat* p, int lanes) {
  const __m256 some = _mm256_maskz_loadu_ps(__mmask8(first_lanes(lanes)), p);
  return reinterpret<Vector<double>>(_mm512_maskz_cvtps_pd(0xff, some));
}
DELTACONV_INLINE Floats load_some(const BFloat16* p, int lanes) {
  return widen(reinterpret<HalfWords>(_mm256_maskz_loadu_epi16(__mmask16(first_lanes(lanes)), p)), BFloat16{});
}
DELTACONV_INLINE Floats load_some(const Half* p, int lanes) {
  return widen(reinterpret<HalfWords>(_mm256_maskz_loadu_epi16(__mmask16(first_lanes(lanes)), p)), Half{});
}

DELTACONV_INLINE void store_some(float* p, Floats v, int lanes) {
  _mm512_mask_storeu_ps(p, __mmask16(first_lanes(lanes)), reinterpret<__m512>(v));
}
DELTACONV_INLINE void store_some(double* p, Vector<double> v, int lanes) {
  _mm512_mask_storeu_pd(p, __mmask8(first_lanes(lanes)), reinterpret<__m512d>(v));
}
DELTACONV_INLINE void store_some(PreciseFloat* p, Vector<double> v, int lanes) {
  const __m256 rounded = _mm512_maskz_cvtpd_ps(0xff, reinterpret<__m512d>(v));
  _mm256_mask_storeu_ps(p, __mmask8(first_lanes(lanes)), rounded);
}
DELTACONV_INLINE void store_some(BFloat16* p, Floats v, int lanes) {
  _mm256_mask_storeu_epi16(p, __mmask16(first_lanes(lanes)), reinterpret<__m256i>(narrow(v, BFloat16{})));
}
DELTACONV_INLINE void store_some(Half* p, Floats v, int lanes) {
  _mm256_mask_storeu_epi16(p, __mmask16(first_lanes(lanes)), reinterpret<__m256i>(narrow(v, Half{})));
}

#elif defined(__AVX2__)

DELTACONV_INLINE __m256i first_lanes(int lanes) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
DELTACONV_INLINE __m256i first_wide_lanes(int lanes) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes), _mm256_setr_epi64x(0, 1, 2, 3));
}
DELTACONV_INLINE __m128i first_lanes_of_4(int lanes) {
  return _mm_cmpgt_epi32(_mm_set1_epi32(lanes), _mm_setr_epi32(0, 1, 2, 3));
}

DELTACONV_INLINE Floats load_some(const float* p, int lanes) {
  return reinterpret<Floats>(_mm256_maskload_ps(p, first_lanes(lanes)));
}
DELTACONV_INLINE Vector<double> load_some(const double* p, int lanes) {
  return reinterpret<Vector<double>>(_mm256_maskload_pd(p, first_wide_lanes(lanes)));
}
DELTACONV_INLINE Vector<double> load_some(const PreciseFloat* p, int lanes) {
  const __m128 some = _mm_maskload_ps(&p->value, first_lanes_of_4(lanes));
  return reinterpret<Vector<double>>(_mm256_cvtps_pd(some));
}

DELTACONV_INLINE void store_some(float* p, Floats v, int lanes) {
  _mm256_maskstore_ps(p, first_lanes(lanes), reinterpret<__m256>(v));
}
DELTACONV_INLINE void store_some(double* p, Vector<double> v, int lanes) {
  _mm256_maskstore_pd(p, first_wide_lanes(lanes), reinterpret<__m256d>(v));
}
DELTACONV_INLINE void store_some(PreciseFloat* p, Vector<double> v, int lanes) {
  _mm_maskstore_ps(&p->value, first_lanes_of_4(lanes), _mm256_cvtpd_ps(reinterpret<__m256d>(v)));
}

#endif

// Loads the first `lanes` elements; the other lanes are zero. `lanes` counts only if the vector is not Full.
template <bool Full, class T>
DELTACONV_INLINE Vector<Accumulator<T>> load(const T* p, int lanes) {
  if constexpr (Full) return load(p);
  return load_some(p, lanes);
}

template <bool Full, class T>
DELTACONV_INLINE void store(T* p, Vector<Accumulator<T>> v, int lanes) {
  if constexpr (Full) return store(p, v);
  store_some(p, v, lanes);
}

// Calls visit with a compile-time constant: whether a vector of `lanes` elements is full.
template <class A, class Visit>
DELTACONV_INLINE void with_lanes(int lanes, const Visit& visit) {
  if (lanes == kLanes<A>) return visit.template operator()<true>();
  visit.template operator()<false>();
}

}  // namespace deltaconv::cpu::DELTACONV_ISA

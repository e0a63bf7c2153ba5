#include "cpu/convolve.h"

namespace deltaconv::cpu::DELTACONV_ISA {
namespace {

constexpr int kHeld = 4;  // slopes held in registers

// How many kernel rows are held in registers together with Q chunks: their 8 to 10 sums hide the latency
// of the multiply-add.
constexpr int kernel_rows(int chunks) { return chunks == 2 ? 4 : chunks == 3 ? 3 : chunks == 1 ? 8 : 2; }

// Adds the products of N slopes and the inputs of I kernel rows. Each input is loaded once and serves up to N sums.
template <int N, int I, int Q, class A>
DELTACONV_INLINE void add_slopes(Vector<A> (&sum)[I][Q], const A* const (&x)[I], int64_t t, const A* slopes) {
  constexpr int V = kLanes<A>;
  Vector<A> slope[N];
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) slope[n] = load(slopes + (t + n) * V);
#pragma GCC unroll 16
  for (int s = 0; s < N + Q - 1; ++s) {
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i) {
      const Vector<A> value = load(x[i] + (t + s) * V);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        if (s - n >= 0 && s - n < Q) sum[i][s - n] += slope[n] * value;
      }
    }
  }
}

// Adds I kernel rows, Q chunks, one point. Where some of the rows lie outside of the image, it takes one row at a time.
template <int I, int Q, class A>
DELTACONV_INLINE void accumulate_group(const A* const (&x)[I], int64_t tiles, const A* slopes, int64_t chunks,
                                       A* sums) {
  constexpr int V = kLanes<A>;
  bool all = true;
  for (int i = 0; i < I; ++i) all = all && x[i];
  if constexpr (I > 1) {
    if (!all) {
      for (int i = 0; i < I; ++i) accumulate_group<1, Q>({x[i]}, tiles, slopes, chunks, sums + i * chunks * V);
      return;
    }
  } else if (!all) {
    return;
  }
  Vector<A> sum[I][Q];
#pragma GCC unroll 8
  for (int i = 0; i < I; ++i) {
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) sum[i][q] = load(sums + (i * chunks + q) * V);
  }
  int64_t t = 0;
#pragma GCC unroll 1
  for (; t + kHeld <= tiles; t += kHeld) add_slopes<kHeld>(sum, x, t, slopes);
#pragma GCC unroll 1
  for (; t < tiles; ++t) add_slopes<1>(sum, x, t, slopes);
#pragma GCC unroll 8
  for (int i = 0; i < I; ++i) {
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) store(sums + (i * chunks + q) * V, sum[i][q]);
  }
}

// Adds the kernel rows from i on, I at a time and then fewer.
template <int I, int Q, class A>
DELTACONV_INLINE void accumulate_rows(const Rows<A>& rows, int64_t offset, int64_t i, int64_t K, int64_t tiles,
                                      const A* slopes, int64_t chunks, A* sums) {
  constexpr int V = kLanes<A>;
  for (; i + I <= K; i += I) {
    const A* x[I];
    for (int k = 0; k < I; ++k) x[k] = rows.pointers[i + k] ? rows.pointers[i + k] + offset : nullptr;
    accumulate_group<I, Q>(x, tiles, slopes, chunks, sums + i * chunks * V);
  }
  if constexpr (I > 1) {
    if (i < K) accumulate_rows<I - 1, Q>(rows, offset, i, K, tiles, slopes, chunks, sums);
  }
}

// Adds all kernel rows of one point. Chunks is the number of chunks, or 0 if it is known at run time.
template <int Chunks, class A>
void accumulate_points(const Scheme& scheme, int64_t K, const Rows<A>& rows, int64_t tiles, const A* slopes, A* sums) {
  constexpr int V = kLanes<A>;
  const int64_t chunks = scheme.chunks;
#pragma GCC unroll 1
  for (int64_t p = 0; p < scheme.points; ++p) {
    const int64_t offset = rows.offset + p * rows.pitch * V;
    if constexpr (Chunks > 0) {
      accumulate_rows<kernel_rows(Chunks), Chunks>(rows, offset, 0, K, tiles, slopes, chunks, sums);
    } else {
      int64_t q = 0;
      for (; q + 3 <= chunks; q += 3) {
        accumulate_rows<2, 3>(rows, offset + q * V, 0, K, tiles, slopes, chunks, sums + q * V);
      }
      for (; q < chunks; ++q) {
        accumulate_rows<2, 1>(rows, offset + q * V, 0, K, tiles, slopes, chunks, sums + q * V);
      }
    }
    slopes += tiles * V;
    sums += K * chunks * V;
  }
}

}  // namespace

template <>
void accumulate(const Scheme& scheme, int64_t K, const Rows<float>& rows, int64_t tiles, const float* slopes,
                float* sums) {
  const auto run = [&](auto kernel) { kernel(scheme, K, rows, tiles, slopes, sums); };
  switch (scheme.chunks) {
    case 1: return run(accumulate_points<1, float>);
    case 2: return run(accumulate_points<2, float>);
    case 3: return run(accumulate_points<3, float>);
    case 4: return run(accumulate_points<4, float>);
    case 5: return run(accumulate_points<5, float>);
    default: return run(accumulate_points<0, float>);
  }
}

template <>
void accumulate(const Scheme& scheme, int64_t K, const Rows<double>& rows, int64_t tiles, const double* slopes,
                double* sums) {
  accumulate_points<0>(scheme, K, rows, tiles, slopes, sums);
}

}  // namespace deltaconv::cpu::DELTACONV_ISA

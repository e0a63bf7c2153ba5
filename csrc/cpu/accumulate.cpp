#include "cpu/convolve.h"

namespace deltaconv::cpu::DELTACONV_ISA {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kHeldSums = 17;
#else
constexpr int kHeldSums = 11;
#endif
constexpr int kTile = 4;  // columns of the gradient held at once

// sum[q] += grad[x] * row[x + q] for N columns x: each value of the row is loaded once and serves N sums.
template <int N, int Q, class A>
DELTACONV_INLINE void add_columns(Vector<A> (&sum)[Q], const A* row, const A* grad) {
  constexpr int V = kLanes<A>;
  Vector<A> g[N];
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) g[n] = load(grad + n * V);
#pragma GCC unroll 32
  for (int c = 0; c < N + Q - 1; ++c) {
    const Vector<A> value = load(row + c * V);
    // Ascending n: every sum takes its columns in order.
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      if (c - n >= 0 && c - n < Q) sum[c - n] += g[n] * value;
    }
  }
}

template <int Q, class A>
DELTACONV_INLINE void accumulate_taps(const A* row, int64_t cols, const A* grad, A* sums) {
  constexpr int V = kLanes<A>;
  Vector<A> sum[Q];
#pragma GCC unroll 32
  for (int q = 0; q < Q; ++q) sum[q] = load(sums + q * V);
  int64_t x = 0;
#pragma GCC unroll 1
  for (; x + kTile <= cols; x += kTile) add_columns<kTile>(sum, row + x * V, grad + x * V);
#pragma GCC unroll 1
  for (; x < cols; ++x) add_columns<1>(sum, row + x * V, grad + x * V);
#pragma GCC unroll 32
  for (int q = 0; q < Q; ++q) store(sums + q * V, sum[q]);
}

template <int J, int K, class A>
DELTACONV_INLINE void accumulate_kernel_row(const A* row, int64_t cols, const A* grad, A* sums) {
  constexpr int V = kLanes<A>;
  if constexpr (J < K) {
    constexpr int chunks = (K - J + kHeldSums - 1) / kHeldSums;
    constexpr int Q = (K - J + chunks - 1) / chunks;
    accumulate_taps<Q>(row + J * V, cols, grad, sums + J * V);
    accumulate_kernel_row<J + Q, K>(row, cols, grad, sums);
  }
}

// K is a compile-time constant, or 0 for a size known at run time.
template <int K, class A>
void accumulate(const A* const* rows, int64_t offset, int64_t runtime_K, int64_t cols, const A* grad,
                A* sums) {
  constexpr int V = kLanes<A>;
  const int64_t size = K ? K : runtime_K;
#pragma GCC unroll 1
  for (int64_t i = 0; i < size; ++i) {
    if (!rows[i]) continue;
    const A* row = rows[i] + offset;
    A* row_sums = sums + i * size * V;
    if constexpr (K > 0) {
      accumulate_kernel_row<0, K>(row, cols, grad, row_sums);
    } else {
      int64_t j = 0;
      for (; j + 8 <= size; j += 8) accumulate_taps<8>(row + j * V, cols, grad, row_sums + j * V);
      for (; j < size; ++j) accumulate_taps<1>(row + j * V, cols, grad, row_sums + j * V);
    }
  }
}

}  // namespace

template <>
AccumulateWeight<float> accumulate_weight<float>(int64_t K) {
  switch (K) {
    case 1: return accumulate<1, float>;
    case 3: return accumulate<3, float>;
    case 5: return accumulate<5, float>;
    case 7: return accumulate<7, float>;
    case 9: return accumulate<9, float>;
    case 11: return accumulate<11, float>;
    case 13: return accumulate<13, float>;
    case 15: return accumulate<15, float>;
    case 17: return accumulate<17, float>;
    default: return accumulate<0, float>;
  }
}

template <>
AccumulateWeight<double> accumulate_weight<double>(int64_t) {
  return accumulate<0, double>;
}

}  // namespace deltaconv::cpu::DELTACONV_ISA

#include "cpu/convolve.h"

namespace deltaconv::cpu::DELTACONV_ISA {
namespace {

// Columns of a register tile and weights held beside it: 16 vector registers on AVX2 and SSE, 32 on AVX-512
// and NEON.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTile = 16;
constexpr int kHeldWeights = 13;
#else
constexpr int kTile = 12;
constexpr int kHeldWeights = 2;
#endif

// Adds taps [j, j + Q) of one kernel row to a tile of N columns: each x is loaded once and serves Q taps.
template <int N, int Q, class A>
DELTACONV_INLINE void add_taps(Vector<A> (&sum)[N], const A* x, const A* weights) {
  constexpr int V = kLanes<A>;
  Vector<A> w[Q];
#pragma GCC unroll 32
  for (int q = 0; q < Q; ++q) w[q] = load(weights + q * V);
#pragma GCC unroll 64
  for (int c = 0; c < N + Q - 1; ++c) {
    const Vector<A> value = load(x + c * V);
#pragma GCC unroll 32
    for (int q = 0; q < Q; ++q) {
      if (c - q >= 0 && c - q < N) sum[c - q] += value * w[q];
    }
  }
}

template <int N, int J, int K, class A>
DELTACONV_INLINE void add_kernel_row(Vector<A> (&sum)[N], const A* x, const A* weights) {
  constexpr int V = kLanes<A>;
  if constexpr (J < K) {
    constexpr int chunks = (K - J + kHeldWeights - 1) / kHeldWeights;
    constexpr int Q = (K - J + chunks - 1) / chunks;
    add_taps<N, Q>(sum, x + J * V, weights + J * V);
    add_kernel_row<N, J + Q, K>(sum, x, weights);
  }
}

// K is a compile-time constant, or 0 for a size known at run time.
template <int N, int K, class A>
DELTACONV_INLINE void convolve_tile(const A* const* rows, int64_t offset, int64_t runtime_K, const A* weights,
                                    const A* bias, A* out) {
  constexpr int V = kLanes<A>;
  const int64_t size = K ? K : runtime_K;
  Vector<A> sum[N];
  const Vector<A> start = load(bias);
#pragma GCC unroll 32
  for (int n = 0; n < N; ++n) sum[n] = start;
#pragma GCC unroll 1
  for (int64_t i = 0; i < size; ++i) {
    if (!rows[i]) continue;
    const A* x = rows[i] + offset;
    const A* w = weights + i * size * V;
    if constexpr (K > 0) {
      add_kernel_row<N, 0, K>(sum, x, w);
    } else {
#pragma GCC unroll 1
      for (int64_t j = 0; j < size; ++j) add_taps<N, 1>(sum, x + j * V, w + j * V);
    }
  }
#pragma GCC unroll 32
  for (int n = 0; n < N; ++n) store(out + n * V, sum[n]);
}

// Tiles of kTile and 8 columns, and of 4 where there are fewer than 8. A tile that does not fit overlaps the
// one before it rather than being narrower: it writes the same values again.
template <int K, class A>
void convolve(const A* const* rows, int64_t offset, int64_t size, int64_t cols, const A* weights,
              const A* bias, A* out) {
  constexpr int V = kLanes<A>;
  for (int64_t col = 0; col < cols;) {
    const int64_t left = cols - col;
    if (left >= kTile ? left != 16 || kTile == 16 : cols >= kTile && left > 8) {
      if (left < kTile) col = cols - kTile;
      convolve_tile<kTile, K>(rows, offset + col * V, size, weights, bias, out + col * V);
      col += kTile;
    } else if (cols >= 8 && left > 4) {
      if (left < 8) col = cols - 8;
      convolve_tile<8, K>(rows, offset + col * V, size, weights, bias, out + col * V);
      col += 8;
    } else {
      if (cols >= 4 && left < 4) col = cols - 4;
      convolve_tile<4, K>(rows, offset + col * V, size, weights, bias, out + col * V);
      col += 4;
    }
  }
}

}  // namespace

template <>
ConvolveRow<float> convolve_row<float>(int64_t K) {
  switch (K) {
    case 1: return convolve<1, float>;
    case 3: return convolve<3, float>;
    case 5: return convolve<5, float>;
    case 7: return convolve<7, float>;
    case 9: return convolve<9, float>;
    case 11: return convolve<11, float>;
    case 13: return convolve<13, float>;
    case 15: return convolve<15, float>;
    case 17: return convolve<17, float>;
    default: return convolve<0, float>;
  }
}

template <>
ConvolveRow<double> convolve_row<double>(int64_t) {
  return convolve<0, double>;
}

}  // namespace deltaconv::cpu::DELTACONV_ISA

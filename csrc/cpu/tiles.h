// Fast convolution along a row (Toom-Cook, as in Winograd's minimal filtering): m outputs of m taps from 2m - 1
// products instead of m * m,
//     y = A^T [ (G w) * (B x) ],  x: 2m - 1 inputs, w: m taps, y: m outputs, * elementwise.
// A kernel row of K taps is ceil(K / m) chunks of m taps, and a row of outputs is tiles of m: chunk q of tile t needs
// the transformed inputs of tile t + q. Rows are therefore kept transformed (B x), and a convolution sums products over
// kernel rows and chunks before it transforms back (A^T), once for each tile. With m = 1 this is the direct method.
//
//   K = 7, m = 4: 2 chunks; a row of 8 outputs is 2 tiles
//   outputs of tile 0     chunk 0 with inputs of tile 0, chunk 1 with inputs of tile 1
//   outputs of tile 1     chunk 0 with inputs of tile 1, chunk 1 with inputs of tile 2
#pragma once

#include "cpu/simd.h"

namespace deltaconv::cpu::DELTACONV_ISA {

struct Scheme {
  int64_t tile;    // m
  int64_t points;  // 2m - 1
  int64_t chunks;  // chunks of a kernel row of K taps
};

// The scheme for a problem. An output takes K products for each kernel row directly, chunks * points / tile and some
// additions in tiles; m is 4 or 5, whichever takes fewer. In float32 the error of a convolution grows from 1.5e-7 to
// 4e-7 (m = 4) and 1e-6 (m = 5): with gradients and for the worst inputs it stays about a third of the 1e-5 allowed,
// which m = 6 would not. A steep sigmoid multiplies the error by its steepness; it stays direct, and so does float64.
template <class T>
DELTACONV_INLINE Scheme scheme_of(const Problem<T>& problem) {
  const int64_t K = problem.sizes.K;
  const bool steep = problem.gate == Gate::kSigmoid && (problem.gate_scale > 4 || problem.gate_scale < -4);
  const int64_t m = sizeof(Accumulator<T>) > 4 || K < 7 || steep ? 1 : K == 7 || K == 11 ? 4 : 5;
  return {m, 2 * m - 1, (K + m - 1) / m};
}

// The points at which products are taken, beside infinity: M - 1 pairs a, -a, which share their even and odd parts. The
// points for M = 5 have the least error in float32 among multiples of one eighth.
template <int M>
inline constexpr double kPoints[1] = {};
template <>
inline constexpr double kPoints<4>[] = {0.5, 1, 2};
template <>
inline constexpr double kPoints<5>[] = {0.25, 0.625, 1.125, 2.25};

constexpr double power(double base, int exponent) { return exponent ? base * power(base, exponent - 1) : 1; }

// zeros[i] is the polynomial in t^2 that is zero at all pairs but the i-th (the last one at all pairs); its constant
// term comes first, its leading coefficient is 1. powers[i][k] = a^k, filter[i][k] = a^k / (2 a zeros[i](a^2)). They
// are tables because Clang calls power() at run time where a loop's index, even an unrolled one's, is an argument.
template <int M>
struct Coefficients {
  double zeros[M][M + 1] = {}, powers[M][M] = {}, filter[M][M] = {};

  constexpr Coefficients() {
    for (int i = 0; i < M; ++i) {
      const double a = kPoints<M>[i < M - 1 ? i : 0];
      zeros[i][0] = 1;
      double divisor = 2 * a;
      for (int j = 0; j < M - 1; ++j) {
        if (j == i) continue;
        const double square = power(kPoints<M>[j], 2);
        divisor *= a * a - square;
        for (int k = M; k > 0; --k) zeros[i][k] = zeros[i][k - 1] - square * zeros[i][k];
        zeros[i][0] *= -square;
      }
      for (int k = 0; k < M; ++k) {
        powers[i][k] = power(a, k);
        filter[i][k] = i < M - 1 ? 1 / divisor * powers[i][k] : 0;
      }
    }
  }
};

template <int M, class A>
struct Transform {
  using V = Vector<A>;
  static constexpr int P = 2 * M - 1;
  static constexpr Coefficients<M> kCoefficients = {};

  // The polynomial zeros[i], of degree N, times every second x.
  template <int N>
  static DELTACONV_INLINE V filtered(int i, const V* x) {
    V sum = x[2 * N];
#pragma GCC unroll 8
    for (int k = 0; k < N; ++k) sum += A(kCoefficients.zeros[i][k]) * x[2 * k];
    return sum;
  }

  template <class Put>
  static DELTACONV_INLINE void input(const V (&x)[P], const Put& put) {
#pragma GCC unroll 8
    for (int i = 0; i < M - 1; ++i) {
      const V even = filtered<M - 2>(i, x), odd = filtered<M - 2>(i, x + 1);
      put(2 * i, odd + A(kPoints<M>[i]) * even);
      put(2 * i + 1, odd - A(kPoints<M>[i]) * even);
    }
    put(P - 1, filtered<M - 1>(M - 1, x));
  }

  template <class Put>
  static DELTACONV_INLINE void filter(const V (&w)[M], const Put& put) {
#pragma GCC unroll 8
    for (int i = 0; i < M - 1; ++i) {
      const auto factor = [=](int k) { return A(kCoefficients.filter[i][k]); };
      V even = factor(0) * w[0], odd = factor(1) * w[1];
#pragma GCC unroll 8
      for (int k = 2; k < M; ++k) (k % 2 ? odd : even) += factor(k) * w[k];
      put(2 * i, odd + even);
      put(2 * i + 1, odd - even);
    }
    put(P - 1, w[M - 1]);
  }

  template <class Point>
  static DELTACONV_INLINE void output(const Point& point, V (&y)[M]) {
    y[M - 1] = point(P - 1);
#pragma GCC unroll 8
    for (int i = 0; i < M - 1; ++i) {
      const V plus = point(2 * i), minus = point(2 * i + 1), even = plus + minus, odd = plus - minus;
#pragma GCC unroll 8
      for (int k = 0; k < M; ++k) {
        const V term = A(kCoefficients.powers[i][k]) * (k % 2 ? odd : even);
        y[k] = i == 0 && k < M - 1 ? term : y[k] + term;
      }
    }
  }
};

template <class A>
struct Transform<1, A> {
  using V = Vector<A>;
  template <class Put>
  static DELTACONV_INLINE void input(const V (&x)[1], const Put& put) {
    put(0, x[0]);
  }
  template <class Put>
  static DELTACONV_INLINE void filter(const V (&w)[1], const Put& put) {
    put(0, w[0]);
  }
  template <class Point>
  static DELTACONV_INLINE void output(const Point& point, V (&y)[1]) {
    y[0] = point(0);
  }
};

// Computes B x for `tiles` tiles of the row whose inputs are column(0), column(1), and so on. `to`
// is [points][pitch] vectors.
template <int M, class A, class Column>
DELTACONV_INLINE void transform_inputs(const Column& column, int64_t tiles, int64_t pitch, A* to) {
  constexpr int V = kLanes<A>, P = 2 * M - 1, kShared = P - M;  // kShared: inputs that a tile shares with the next
  Vector<A> x[P];
  for (int i = 0; i < kShared; ++i) x[i] = column(i);
  for (int64_t t = 0; t < tiles; ++t) {
    for (int i = kShared; i < P; ++i) x[i] = column(t * M + i);
    Transform<M, A>::input(x, [=](int p, Vector<A> value) { store(to + (p * pitch + t) * V, value); });
    for (int i = 0; i < kShared; ++i) x[i] = x[i + M];
  }
}

// Computes G w for `chunks` chunks of m taps. `to` is [points][pitch] vectors.
template <int M, class A>
DELTACONV_INLINE void transform_filters(const A* taps, int64_t chunks, int64_t pitch, A* to) {
  constexpr int V = kLanes<A>;
  for (int64_t q = 0; q < chunks; ++q) {
    Vector<A> w[M];
    for (int i = 0; i < M; ++i) w[i] = load(taps + (q * M + i) * V);
    Transform<M, A>::filter(w, [=](int p, Vector<A> value) { store(to + (p * pitch + q) * V, value); });
  }
}

// Computes A^T p for `tiles` tiles from [points][pitch] vectors, plus a constant. `to` is [tiles * m] vectors.
template <int M, class A>
DELTACONV_INLINE void transform_outputs(const A* from, int64_t tiles, int64_t pitch, Vector<A> constant, A* to) {
  constexpr int V = kLanes<A>;
  for (int64_t t = 0; t < tiles; ++t) {
    Vector<A> y[M];
    Transform<M, A>::output([=](int p) { return load(from + (p * pitch + t) * V); }, y);
    for (int i = 0; i < M; ++i) store(to + (t * M + i) * V, y[i] + constant);
  }
}

// Calls visit with m as a compile-time constant.
template <class Visit>
DELTACONV_INLINE void with_tile(int64_t m, const Visit& visit) {
  switch (m) {
    case 1: return visit.template operator()<1>();
    case 4: return visit.template operator()<4>();
    default: return visit.template operator()<5>();
  }
}

}  // namespace deltaconv::cpu::DELTACONV_ISA

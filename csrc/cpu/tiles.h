// Fast convolution along a row (Toom-Cook, as in Winograd's minimal filtering): m outputs of m taps from
// 2m - 1 products instead of m * m,
//     y = A^T [ (G w) * (B x) ],  x: 2m - 1 inputs, w: m taps, y: m outputs, * elementwise.
// A kernel row of K taps is ceil(K / m) chunks of m taps, and a row of outputs is tiles of m: chunk q of tile
// t needs the transformed inputs of tile t + q. Rows are therefore kept transformed (B x), and a convolution
// sums products over kernel rows and chunks before it transforms back (A^T), once for each tile. With m = 1
// this is the direct method.
#pragma once

#include "cpu/simd.h"

namespace deltaconv::cpu::DELTACONV_ISA {

struct Scheme {
  int64_t tile;    // m
  int64_t points;  // 2m - 1
  int64_t chunks;  // of a kernel row of K taps
};

// Products for one output and kernel row: K directly, chunks * points / tile and some additions in tiles. In
// float32 the error of a convolution grows from 1.5e-7 to 4e-7 (m = 4) and 1e-6 (m = 5, kept to K = 9, where
// it saves most): with gradients and for the worst inputs it stays below a third of the 1e-5 allowed. A steep
// sigmoid multiplies the error by its steepness; it stays direct, and so does float64.
template <class T>
DELTACONV_INLINE Scheme scheme_of(const Problem<T>& problem) {
  const int64_t K = problem.sizes.K;
  const bool steep = problem.gate == Gate::kSigmoid && (problem.gate_scale > 4 || problem.gate_scale < -4);
  const int64_t m = sizeof(Accumulator<T>) > 4 || K < 7 || steep ? 1 : K == 9 ? 5 : 4;
  return {m, 2 * m - 1, (K + m - 1) / m};
}

template <int M, class A>
struct Transform;

template <class A>
struct Transform<1, A> {
  using V = Vector<A>;
  static DELTACONV_INLINE void input(const V (&x)[1], V (&to)[1]) { to[0] = x[0]; }
  static DELTACONV_INLINE void filter(const V (&w)[1], V (&to)[1]) { to[0] = w[0]; }
  static DELTACONV_INLINE void output(const V (&p)[1], V (&y)[1]) { y[0] = p[0]; }
};

// The points 1, -1, 2, -2, 1/2, -1/2 and infinity.
template <class A>
struct Transform<4, A> {
  using V = Vector<A>;
  static DELTACONV_INLINE void input(const V (&x)[7], V (&to)[7]) {
    const V even1 = A(17) * x[2] - A(4) * (x[0] + x[4]), odd1 = A(17) * x[3] - A(4) * (x[1] + x[5]);
    const V even2 = x[0] - A(5) * x[2] + A(4) * x[4], odd2 = x[1] - A(5) * x[3] + A(4) * x[5];
    const V even3 = A(4) * x[0] - A(5) * x[2] + x[4], odd3 = A(4) * x[1] - A(5) * x[3] + x[5];
    to[0] = even1 + odd1;
    to[1] = even1 - odd1;
    to[2] = A(2) * even2 + odd2;
    to[3] = A(2) * even2 - odd2;
    to[4] = even3 + A(2) * odd3;
    to[5] = even3 - A(2) * odd3;
    to[6] = A(21) * (x[2] - x[4]) + A(4) * (x[6] - x[0]);
  }
  static DELTACONV_INLINE void filter(const V (&w)[4], V (&to)[7]) {
    const V even1 = A(1.0 / 18) * (w[0] + w[2]), odd1 = A(1.0 / 18) * (w[1] + w[3]);
    const V even2 = A(1.0 / 180) * (w[0] + A(4) * w[2]), odd2 = A(1.0 / 90) * (w[1] + A(4) * w[3]);
    const V even3 = A(2.0 / 45) * (A(4) * w[0] + w[2]), odd3 = A(1.0 / 45) * (A(4) * w[1] + w[3]);
    to[0] = even1 + odd1;
    to[1] = even1 - odd1;
    to[2] = even2 + odd2;
    to[3] = even2 - odd2;
    to[4] = even3 + odd3;
    to[5] = even3 - odd3;
    to[6] = A(0.25) * w[3];
  }
  static DELTACONV_INLINE void output(const V (&p)[7], V (&y)[4]) {
    const V even1 = p[0] + p[1], odd1 = p[0] - p[1];
    const V even2 = p[2] + p[3], odd2 = p[2] - p[3];
    const V even3 = p[4] + p[5], odd3 = p[4] - p[5];
    y[0] = even1 + even2 + even3;
    y[1] = odd1 + A(2) * odd2 + A(0.5) * odd3;
    y[2] = even1 + A(4) * even2 + A(0.25) * even3;
    y[3] = odd1 + A(8) * odd2 + A(0.125) * odd3 + p[6];
  }
};

// The points 0, 1, -1, 2, -2, 1/2, -1/2, -4 and infinity. The inputs' transform is built from the factors of
// the polynomial with these zeros: x, x + 4 and (x^2 - 1)(x^2 - 4)(x^2 - 1/4).
template <class A>
struct Transform<5, A> {
  using V = Vector<A>;
  static DELTACONV_INLINE V all_pairs(V x0, V x2, V x4, V x6) { return x6 - x0 + A(5.25) * (x2 - x4); }
  static DELTACONV_INLINE void input(const V (&x)[9], V (&to)[9]) {
    V z[7];  // times x (x + 4)
    for (int i = 0; i < 7; ++i) z[i] = x[i + 2] + A(4) * x[i + 1];
    const V even = all_pairs(x[0], x[2], x[4], x[6]), odd = all_pairs(x[1], x[3], x[5], x[7]);
    const V even1 = z[0] + z[4] - A(4.25) * z[2], odd1 = z[1] + z[5] - A(4.25) * z[3];
    const V even2 = A(0.25) * z[0] - A(1.25) * z[2] + z[4], odd2 = A(0.25) * z[1] - A(1.25) * z[3] + z[5];
    const V even3 = A(4) * z[0] - A(5) * z[2] + z[4], odd3 = A(4) * z[1] - A(5) * z[3] + z[5];
    to[0] = odd + A(4) * even;
    to[1] = odd1 + even1;
    to[2] = odd1 - even1;
    to[3] = odd2 + A(2) * even2;
    to[4] = odd2 - A(2) * even2;
    to[5] = odd3 + A(0.5) * even3;
    to[6] = odd3 - A(0.5) * even3;
    to[7] = odd;
    to[8] = all_pairs(z[0], z[2], z[4], z[6]);
  }
  static DELTACONV_INLINE void filter(const V (&w)[5], V (&to)[9]) {
    const V even1 = w[0] + w[2] + w[4], odd1 = w[1] + w[3];
    const V even2 = w[0] + A(4) * w[2] + A(16) * w[4], odd2 = A(2) * w[1] + A(8) * w[3];
    const V even3 = w[0] + A(0.25) * w[2] + A(0.0625) * w[4], odd3 = A(0.5) * w[1] + A(0.125) * w[3];
    to[0] = A(-0.25) * w[0];
    to[1] = A(-2.0 / 45) * (even1 + odd1);
    to[2] = A(-2.0 / 27) * (even1 - odd1);
    to[3] = A(1.0 / 540) * (even2 + odd2);
    to[4] = A(1.0 / 180) * (even2 - odd2);
    to[5] = A(64.0 / 405) * (even3 + odd3);
    to[6] = A(64.0 / 315) * (even3 - odd3);
    to[7] = A(-1.0 / 11340) * (w[0] + A(16) * (w[2] + A(16) * w[4]) - A(4) * (w[1] + A(16) * w[3]));
    to[8] = w[4];
  }
  static DELTACONV_INLINE void output(const V (&p)[9], V (&y)[5]) {
    const V even1 = p[1] + p[2], odd1 = p[1] - p[2];
    const V even2 = p[3] + p[4], odd2 = p[3] - p[4];
    const V even3 = p[5] + p[6], odd3 = p[5] - p[6];
    y[0] = p[0] + even1 + even2 + even3 + p[7];
    y[1] = odd1 + A(2) * odd2 + A(0.5) * odd3 - A(4) * p[7];
    y[2] = even1 + A(4) * even2 + A(0.25) * even3 + A(16) * p[7];
    y[3] = odd1 + A(8) * odd2 + A(0.125) * odd3 - A(64) * p[7];
    y[4] = even1 + A(16) * even2 + A(0.0625) * even3 + A(256) * p[7] + p[8];
  }
};

// B x for `tiles` tiles of the row whose inputs are column(0), column(1), …: `to` is [points][pitch] vectors.
template <int M, class A, class Column>
DELTACONV_INLINE void transform_inputs(const Column& column, int64_t tiles, int64_t pitch, A* to) {
  constexpr int V = kLanes<A>, P = 2 * M - 1, kShared = P - M;  // inputs that a tile shares with the next
  Vector<A> x[P], point[P];
  for (int i = 0; i < kShared; ++i) x[i] = column(i);
  for (int64_t t = 0; t < tiles; ++t) {
    for (int i = kShared; i < P; ++i) x[i] = column(t * M + i);
    Transform<M, A>::input(x, point);
    for (int p = 0; p < P; ++p) store(to + (p * pitch + t) * V, point[p]);
    for (int i = 0; i < kShared; ++i) x[i] = x[i + M];
  }
}

// G w for `chunks` chunks of m taps: `to` is [points][pitch] vectors.
template <int M, class A>
DELTACONV_INLINE void transform_filters(const A* taps, int64_t chunks, int64_t pitch, A* to) {
  constexpr int V = kLanes<A>, P = 2 * M - 1;
  for (int64_t q = 0; q < chunks; ++q) {
    Vector<A> w[M], point[P];
    for (int i = 0; i < M; ++i) w[i] = load(taps + (q * M + i) * V);
    Transform<M, A>::filter(w, point);
    for (int p = 0; p < P; ++p) store(to + (p * pitch + q) * V, point[p]);
  }
}

// A^T p for `tiles` tiles from [points][pitch] vectors, plus a constant: `to` is [tiles * m] vectors.
template <int M, class A>
DELTACONV_INLINE void transform_outputs(const A* from, int64_t tiles, int64_t pitch, Vector<A> constant,
                                        A* to) {
  constexpr int V = kLanes<A>, P = 2 * M - 1;
  for (int64_t t = 0; t < tiles; ++t) {
    Vector<A> point[P], y[M];
    for (int p = 0; p < P; ++p) point[p] = load(from + (p * pitch + t) * V);
    Transform<M, A>::output(point, y);
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

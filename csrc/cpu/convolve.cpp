#include "cpu/convolve.h"

namespace deltaconv::cpu::DELTACONV_ISA {
namespace {

// A register tile is kTiles tiles of kRows rows. Beside it, kTaps weights of each row are in registers.
constexpr int kTiles = kVectorRegisters == 32 ? 8 : 5;
constexpr int kTaps = kVectorRegisters == 32 ? 5 : 3;

// Adds the part of one input row to R rows of outputs, for Q chunks of taps. Each input is loaded once and serves R
// * Q sums.
template <int T, int R, int Q, class A>
DELTACONV_INLINE void add_chunks(Vector<A> (&sum)[R][T], const A* x, const A* const (&weights)[R]) {
  constexpr int V = kLanes<A>;
  Vector<A> w[R][Q];
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) w[r][q] = held(load(weights[r] + q * V));
  }
#pragma GCC unroll 16
  for (int s = 0; s < T + Q - 1; ++s) {
    const Vector<A> value = held(load(x + s * V));
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        if (s - q >= 0 && s - q < T) sum[r][s - q] += value * w[r][q];
      }
    }
    if constexpr (R * (T + Q) < kVectorRegisters) separate_loads();  // else weights are to be loaded at each use
  }
}

// Adds the part of one input row for all chunks, in pieces that fit the registers. Chunks is their number, or 0 if it
// is known at run time.
template <int T, int R, int Chunks, class A>
DELTACONV_INLINE void add_row(Vector<A> (&sum)[R][T], int64_t chunks, const A* x, const A* const (&weights)[R]) {
  constexpr int V = kLanes<A>;
  if constexpr (Chunks > 0) {
    constexpr int pieces = (Chunks + kTaps - 1) / kTaps, Q = (Chunks + pieces - 1) / pieces;
    add_chunks<T, R, Q>(sum, x, weights);
    if constexpr (Q < Chunks) {
      const A* rest[R];
      for (int r = 0; r < R; ++r) rest[r] = weights[r] + Q * V;
      add_row<T, R, Chunks - Q>(sum, chunks, x + Q * V, rest);
    }
  } else {
    const A* rest[R];
    for (int r = 0; r < R; ++r) rest[r] = weights[r];
    for (int64_t left = chunks; left > 0;) {
      const bool three = left >= 3;
      if (three) {
        add_chunks<T, R, 3>(sum, x, rest);
      } else {
        add_chunks<T, R, 1>(sum, x, rest);
      }
      const int64_t done = three ? 3 : 1;
      left -= done;
      x += done * V;
      for (int r = 0; r < R; ++r) rest[r] += done * V;
    }
  }
}

// The sums of T tiles of R rows at one point. A sum takes its products in one order, whatever T and R are.
template <int T, int R, int Chunks, class A>
DELTACONV_INLINE void sum_products(const Rows<A>& rows, int64_t offset, int64_t K, int64_t chunks, const A* weights,
                                   Vector<A> start, Vector<A> (&sum)[R][T]) {
  constexpr int V = kLanes<A>;
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sum[r][t] = start;
  }
  const int64_t step = chunks * V;
  const auto single = [&](int64_t i, int r, const A* w) DELTACONV_INLINE_LAMBDA {
    if (!rows.pointers[i]) return;
    Vector<A>(&one)[1][T] = reinterpret_cast<Vector<A>(&)[1][T]>(sum[r]);
    add_row<T, 1, Chunks>(one, chunks, rows.pointers[i] + offset, {w});
  };
  if constexpr (R == 1) {
#pragma GCC unroll 1
    for (int64_t i = 0; i < K; ++i) single(i, 0, weights + i * step);
  } else {
    single(0, 0, weights);
#pragma GCC unroll 1
    for (int64_t i = 1; i < K; ++i) {
      if (!rows.pointers[i]) continue;
      add_row<T, R, Chunks>(sum, chunks, rows.pointers[i] + offset, {weights + i * step, weights + (i - 1) * step});
    }
    single(K, 1, weights + (K - 1) * step);
  }
}

// Computes T tiles from tile t on. Products of all points are kept on the stack before they are transformed back.
template <int M, int T, int R, int Chunks, class A>
DELTACONV_INLINE void convolve_tiles(const Scheme& scheme, int64_t K, const Rows<A>& rows, int64_t t, const A* weights,
                                     const A* bias, A* const (&out)[kRows]) {
  constexpr int V = kLanes<A>, P = 2 * M - 1;
  alignas(64) A products[R][P][T * V];
#pragma GCC unroll 1
  for (int p = 0; p < P; ++p) {
    Vector<A> sum[R][T];
    sum_products<T, R, Chunks>(rows, rows.offset + (p * rows.pitch + t) * V, K, scheme.chunks,
                               weights + p * K * scheme.chunks * V, M == 1 ? load(bias) : Vector<A>{}, sum);
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < T; ++i) store(M == 1 ? out[r] + (t + i) * V : &products[r][p][i * V], sum[r][i]);
    }
  }
  for (int r = 0; r < R && M > 1; ++r) {
    transform_outputs<M>(&products[r][0][0], T, T, load(bias), out[r] + t * M * V);
  }
}

// Cuts rows into pieces of nearly equal numbers of tiles, at most kTiles.
template <int M, int T, int R, int Chunks, class A>
DELTACONV_INLINE void convolve_piece(const Scheme& scheme, int64_t K, const Rows<A>& rows, Span tiles, const A* weights,
                                     const A* bias, A* const (&out)[kRows]) {
  if constexpr (T > kMinTiles) {
    if (tiles.end - tiles.begin < T) {
      return convolve_piece<M, T - 1, R, Chunks>(scheme, K, rows, tiles, weights, bias, out);
    }
  }
  convolve_tiles<M, T, R, Chunks>(scheme, K, rows, tiles.begin, weights, bias, out);
}

template <int M, int R, int Chunks, class A>
void convolve_rows(const Scheme& scheme, int64_t K, const Rows<A>& rows, int64_t tiles, const A* weights, const A* bias,
                   A* const (&out)[kRows]) {
  const int64_t pieces = (tiles + kTiles - 1) / kTiles;
  for (int64_t i = 0; i < pieces; ++i) {
    const Span piece = {i * tiles / pieces, (i + 1) * tiles / pieces};
    convolve_piece<M, kTiles, R, Chunks>(scheme, K, rows, piece, weights, bias, out);
  }
}

template <int M, int Chunks, class A>
void convolve_count(const Scheme& scheme, int64_t K, const Rows<A>& rows, int64_t count, int64_t tiles,
                    const A* weights, const A* bias, A* const (&out)[kRows]) {
  if (count == 1) {
    convolve_rows<M, 1, Chunks>(scheme, K, rows, tiles, weights, bias, out);
  } else {
    convolve_rows<M, 2, Chunks>(scheme, K, rows, tiles, weights, bias, out);
  }
}

}  // namespace

template <>
void convolve(const Scheme& scheme, int64_t K, const Rows<float>& rows, int64_t count, int64_t tiles,
              const float* weights, const float* bias, float* const (&out)[kRows]) {
  const auto run = [&](auto kernel) { kernel(scheme, K, rows, count, tiles, weights, bias, out); };
  switch (scheme.tile * 100 + scheme.chunks) {
    case 101: return run(convolve_count<1, 1, float>);
    case 103: return run(convolve_count<1, 3, float>);
    case 105: return run(convolve_count<1, 5, float>);
    case 402: return run(convolve_count<4, 2, float>);
    case 403: return run(convolve_count<4, 3, float>);
    case 502: return run(convolve_count<5, 2, float>);
    case 503: return run(convolve_count<5, 3, float>);
    case 504: return run(convolve_count<5, 4, float>);
    default:
      if (scheme.tile == 1) return run(convolve_count<1, 0, float>);
      return run(convolve_count<5, 0, float>);
  }
}

template <>
void convolve(const Scheme& scheme, int64_t K, const Rows<double>& rows, int64_t count, int64_t tiles,
              const double* weights, const double* bias, double* const (&out)[kRows]) {
  convolve_count<1, 0>(scheme, K, rows, count, tiles, weights, bias, out);
}

}  // namespace deltaconv::cpu::DELTACONV_ISA

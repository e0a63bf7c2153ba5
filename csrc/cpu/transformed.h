// The filters and rows of an image in the form that convolve.h works on.
#pragma once

#include "cpu/convolve.h"
#include "cpu/rows.h"

namespace deltaconv::cpu::DELTACONV_ISA {

// The tiles of `cols` columns of outputs, and the tiles of inputs that they need.
struct Tiling {
  Scheme scheme;
  int64_t tiles, pitch;  // pitch: tiles of inputs, at least those of kMinTiles

  DELTACONV_INLINE int64_t input_tiles() const { return tiles + scheme.chunks - 1; }
  DELTACONV_INLINE int64_t width() const { return scheme.points * pitch; }  // vectors of a transformed row
  DELTACONV_INLINE int64_t output_width() const { return larger(tiles, kMinTiles) * scheme.tile; }
  // Columns of padded inputs; the first lies K / 2 left of the first output.
  DELTACONV_INLINE int64_t input_width() const { return (input_tiles() + 1) * scheme.tile - 1; }
};

DELTACONV_INLINE Tiling tiling_of(const Scheme& scheme, int64_t cols) {
  const int64_t tiles = (cols + scheme.tile - 1) / scheme.tile;
  return {scheme, tiles, larger(tiles, kMinTiles) + scheme.chunks - 1};
}

// The transformed kernels of every plane of a channel block: [planes][points][K][chunks] vectors.
template <class T>
DELTACONV_NOINLINE void pack_weights(const Problem<T>& problem, const ChannelBlock<Accumulator<T>>& block,
                                     int64_t stage, bool flipped, Accumulator<T>* out) {
  using A = Accumulator<T>;
  constexpr int V = kLanes<A>;
  const int64_t K = problem.sizes.K, C = problem.sizes.C;
  const Scheme scheme = scheme_of(problem);
  A row[kMaxPaddedK * V] = {};  // a kernel row, zeros up to whole chunks
  for (int64_t plane = 0; plane < block.planes(); ++plane) {
    const T* from = problem.weight + stage * K * K * C + block.channel(plane);
    const int lanes = block.lanes(plane);
    for (int64_t i = 0; i < K; ++i) {
      for (int64_t j = 0; j < K; ++j) {
        const int64_t tap = i * K + j;
        const T* tap_from = from + (flipped ? K * K - 1 - tap : tap) * C;
        with_lanes<A>(lanes, [&]<bool Full>() { store(row + j * V, load<Full>(tap_from, lanes)); });
      }
      with_tile(scheme.tile, [&]<int M>() {
        transform_filters<M>(row, scheme.chunks, K * scheme.chunks, out + i * scheme.chunks * V);
      });
    }
    out += scheme.points * K * scheme.chunks * V;
  }
}

template <class T>
DELTACONV_INLINE void pack_bias(const Problem<T>& problem, const ChannelBlock<Accumulator<T>>& block, int64_t stage,
                                Accumulator<T>* out) {
  using A = Accumulator<T>;
  for (int64_t plane = 0; plane < block.planes(); ++plane, out += kLanes<A>) {
    const T* from = problem.bias + stage * problem.sizes.C + block.channel(plane);
    store(out, problem.bias ? load<false>(from, block.lanes(plane)) : Vector<A>{});
  }
}

// The transformed rows of one channel block around the rows that are being convolved.
template <class A>
struct TransformedRows {
  static constexpr int V = kLanes<A>;

  Tiling tiling;
  int64_t K, height;  // height of the grid: rows outside of it are zero
  Ring<A> ring;

  // `rows_ahead`: how many rows may be put before the last row that a convolution needs is used.
  DELTACONV_INLINE void plan_memory(Arena& arena, const Scheme& scheme, int64_t kernel, int64_t grid_height,
                                    int64_t planes, int64_t cols, int64_t rows_ahead) {
    K = kernel;
    height = grid_height;
    tiling = tiling_of(scheme, cols);
    ring = take_ring<A>(arena, K + kRows - 1 + rows_ahead, planes, tiling.width());
  }

  DELTACONV_INLINE void start() const {
    const bool unwritten = tiling.pitch > tiling.input_tiles();  // some tiles are read and have no effect
    if (unwritten) zero_vectors(ring.data, ring.depth * ring.planes * ring.width);
  }

  // Transforms row r of one plane. column(x) gives its padded columns, the first of which lies K / 2 left of
  // the first output.
  template <class Column>
  DELTACONV_INLINE void put(int64_t r, int64_t plane, const Column& column) const {
    with_tile(tiling.scheme.tile, [&]<int M>() DELTACONV_INLINE_LAMBDA {
      transform_inputs<M>(column, tiling.input_tiles(), tiling.pitch, ring.at(r, plane));
    });
  }

  // The rows that rows r to r + count - 1 of the convolution are made of.
  DELTACONV_INLINE Rows<A> around(int64_t r, int64_t count) const {
    Rows<A> rows;
    rows.pitch = tiling.pitch;
    for (int64_t i = 0; i < K + count - 1; ++i) {
      const int64_t from = r - K / 2 + i;
      rows.pointers[i] = from >= 0 && from < height ? ring.at(from, 0) : nullptr;
    }
    return rows;
  }

  DELTACONV_INLINE int64_t plane_offset(int64_t plane) const { return plane * ring.width * V; }
  DELTACONV_INLINE int64_t filter_size() const { return tiling.scheme.points * K * tiling.scheme.chunks; }
};

}  // namespace deltaconv::cpu::DELTACONV_ISA

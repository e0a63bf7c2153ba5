// One stage's convolution for one block of channels, rows in order: x is read, pooled, widened, padded and
// transformed once.
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
  // Columns of padded inputs, the first K / 2 left of the first output.
  DELTACONV_INLINE int64_t input_width() const { return (input_tiles() + 1) * scheme.tile - 1; }
};

template <class A>
DELTACONV_INLINE Tiling tiling_of(int64_t K, int64_t cols) {
  const Scheme scheme = scheme_of<A>(K);
  const int64_t tiles = (cols + scheme.tile - 1) / scheme.tile;
  return {scheme, tiles, larger(tiles, kMinTiles) + scheme.chunks - 1};
}

// The transformed kernels of every plane of a block: [planes][points][K][chunks] vectors.
template <class T>
DELTACONV_INLINE void pack_weights(const Problem<T>& problem, const Block<Accumulator<T>>& block,
                                   int64_t stage, bool flipped, Accumulator<T>* out) {
  using A = Accumulator<T>;
  constexpr int V = kLanes<A>;
  const int64_t K = problem.sizes.K, C = problem.sizes.C;
  const Scheme scheme = scheme_of<A>(K);
  A row[(kMaxK + 3) * V] = {};  // a kernel row, zeros up to whole chunks
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
DELTACONV_INLINE void pack_bias(const Problem<T>& problem, const Block<Accumulator<T>>& block, int64_t stage,
                                Accumulator<T>* out) {
  using A = Accumulator<T>;
  for (int64_t plane = 0; plane < block.planes(); ++plane, out += kLanes<A>) {
    const T* from = problem.bias + stage * problem.sizes.C + block.channel(plane);
    store(out, problem.bias ? load<false>(from, block.lanes(plane)) : Vector<A>{});
  }
}

// The transformed rows of one block of channels around the rows being convolved.
template <class A>
struct TransformedRows {
  static constexpr int V = kLanes<A>;

  Tiling tiling;
  int64_t K, height;  // of the grid: rows outside of it are zero
  Ring<A> ring;

  // rows_ahead: how many rows may be put before the last that a convolution needs is used.
  DELTACONV_INLINE void plan_memory(Arena& arena, int64_t kernel, int64_t grid_height, int64_t planes,
                                    int64_t cols, int64_t rows_ahead) {
    K = kernel;
    height = grid_height;
    tiling = tiling_of<A>(K, cols);
    ring = take_ring<A>(arena, K + kRows - 1 + rows_ahead, planes, tiling.width());
  }

  DELTACONV_INLINE void start() { zero_vectors(ring.data, ring.depth * ring.planes * ring.width); }

  // Transforms row r of one plane; column(x) gives its padded columns, the first K / 2 left of the first
  // output.
  template <class Column>
  DELTACONV_INLINE void put(int64_t r, int64_t plane, const Column& column) const {
    with_tile(tiling.scheme.tile, [&]<int M>() {
      transform_inputs<M>(column, tiling.input_tiles(), tiling.pitch, ring.at(r, plane));
    });
  }

  // The rows that rows r .. r + count - 1 of the convolution are made of.
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

template <class T>
struct Convolution {
  using A = Accumulator<T>;
  static constexpr int V = kLanes<A>;

  const Problem<T>* problem;
  const StagePlan<A>* plan;
  int64_t image, stage;
  Block<A> block;
  Range rows, cols;          // of the stage's grid, to be convolved
  TransformedRows<A> input;  // rows of the pooled image
  int64_t next;              // first row not yet in `input`
  A* weights;                // [planes][points][K][chunks] vectors
  A* bias;                   // [planes] vectors
  A* resampled;    // a row of the pooled image, columns inside(), where the factor does not divide x
  A* combined;     // a row of x, between the two halves of a resampling
  A* activations;  // [kRows][planes][input.tiling.output_width()] vectors

  DELTACONV_INLINE int64_t K() const { return problem->sizes.K; }
  DELTACONV_INLINE A* activation(int64_t i, int64_t plane) const {
    return activations + (i * block.planes() + plane) * input.tiling.output_width() * V;
  }

  // Lays out scratch memory; writes none of it.
  DELTACONV_INLINE void plan_memory(Arena& arena) {
    input.plan_memory(arena, K(), plan->h, block.planes(), length(cols), 0);
    weights = arena.take<A>(block.planes() * input.filter_size() * V);
    bias = arena.take<A>(block.planes() * V);
    const bool resamples = plan->factor != 1 && !plan->divides;
    resampled = arena.take<A>(resamples ? length(inside()) * V : 0);
    combined = arena.take<A>(resamples ? length(inputs_of(plan->pool_cols, inside())) * V : 0);
    activations = arena.take<A>(kRows * block.planes() * input.tiling.output_width() * V);
  }

  DELTACONV_INLINE void start() {
    next = larger(rows.begin - K() / 2, 0);
    pack_weights(*problem, block, stage, false, weights);
    pack_bias(*problem, block, stage, bias);
    input.start();
  }

  // Convolves rows r .. r + count - 1, count at most kRows, into activation(i, plane). Rows come in order.
  DELTACONV_INLINE void convolve_rows(int64_t r, int64_t count) {
    for (const int64_t last = smaller(r + count - 1 + K() / 2, plan->h - 1); next <= last; ++next)
      read_row(next);
    Rows<A> around = input.around(r, count);
    for (int64_t plane = 0; plane < block.planes(); ++plane) {
      around.offset = input.plane_offset(plane);
      convolve<A>(input.tiling.scheme, K(), around, count, input.tiling.tiles,
                  weights + plane * input.filter_size() * V, bias + plane * V,
                  {activation(0, plane), activation(1, plane)});
    }
  }

  // The grid's columns that the convolution needs.
  DELTACONV_INLINE Range inside() const { return clip({cols.begin - K() / 2, cols.end + K() / 2}, plan->w); }

  DELTACONV_INLINE void read_row(int64_t r) {
    for (int64_t plane = 0; plane < block.planes(); ++plane) {
      with_source(problem->x, image, block.channel(plane), block.lanes(plane), plan->factor,
                  [&](auto source) {
                    if (plan->factor == 1) {
                      read_full(source, r, plane);
                    } else if (plan->divides) {
                      read_averaged(source, r, plane);
                    } else {
                      read_resampled(source, r, plane);
                    }
                  });
    }
  }

  // Transforms the row whose columns inside() are column(x).
  template <class Column>
  DELTACONV_INLINE void put(int64_t r, int64_t plane, const Column& column) const {
    const int64_t first = cols.begin - K() / 2;
    const Range range = inside();
    input.put(r, plane, [=](int64_t x) {
      x += first;
      return x >= range.begin && x < range.end ? column(x) : Vector<A>{};
    });
  }

  template <class Source>
  DELTACONV_NOINLINE void read_full(Source source, int64_t r, int64_t plane) const {
    const auto* line = source.row(r);
    put(r, plane, [=](int64_t x) { return source.at(line, x); });
  }

  template <class Source>
  DELTACONV_NOINLINE void read_averaged(Source source, int64_t r, int64_t plane) const {
    const int64_t factor = plan->factor;
    if (factor == 2) {
      put(r, plane, [=](int64_t x) { return average_window<A>(source, 2, r, x); });
    } else {
      put(r, plane, [=](int64_t x) { return average_window<A>(source, factor, r, x); });
    }
  }

  template <class Source>
  DELTACONV_NOINLINE void read_resampled(Source source, int64_t r, int64_t plane) const {
    A* out = resampled - inside().begin * V;
    resample_row(source, plan->pool_rows, plan->pool_cols, r, inside(), combined,
                 [=](int64_t x, Vector<A> value) { store(out + x * V, value); });
    put(r, plane, [=](int64_t x) { return load(out + x * V); });
  }
};

}  // namespace deltaconv::cpu::DELTACONV_ISA

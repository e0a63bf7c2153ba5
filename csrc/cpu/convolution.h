// One stage's convolution for one channel block, row by row: x is read, pooled, widened, padded and transformed once.
#pragma once

#include "cpu/transformed.h"

namespace deltaconv::cpu::DELTACONV_ISA {

template <class T>
struct Convolution {
  using A = Accumulator<T>;
  static constexpr int V = kLanes<A>;

  const Problem<T>* problem;
  const StagePlan<A>* plan;
  int64_t image, stage;
  ChannelBlock<A> block;
  Span rows, cols;           // part of the stage's grid that is to be convolved
  TransformedRows<A> input;  // rows of the pooled image
  int64_t next;              // first row not yet in `input`
  A* weights;                // [planes][points][K][chunks] vectors
  A* bias;                   // [planes] vectors
  A* resampled;              // a row of the pooled image, columns inside(), where the factor does not divide x
  A* combined;               // a row of x, between the two halves of a resampling
  A* activations;            // [kRows][planes][input.tiling.output_width()] vectors
  A* padded;                 // a padded row of one plane and its direct convolution; unused where all is direct

  DELTACONV_INLINE int64_t K() const { return problem->sizes.K; }
  DELTACONV_INLINE A* activation(int64_t i, int64_t plane) const {
    return activations + (i * block.planes() + plane) * input.tiling.output_width() * V;
  }

  // Lays out scratch memory and writes none of it.
  DELTACONV_INLINE void plan_memory(Arena& arena) {
    input.plan_memory(arena, scheme_of(*problem), K(), plan->h, block.planes(), length(cols), 0);
    weights = arena.take<A>(block.planes() * input.filter_size() * V);
    bias = arena.take<A>(block.planes() * V);
    const bool resamples = plan->factor != 1 && !plan->divides;
    resampled = arena.take<A>(resamples ? length(inside()) * V : 0);
    combined = arena.take<A>(resamples ? length(inputs_of(plan->pool_cols, inside())) * V : 0);
    activations = arena.take<A>(kRows * block.planes() * input.tiling.output_width() * V);
    padded = arena.take<A>(is_direct() ? 0 : (padded_width() + length(cols)) * V);
  }

  DELTACONV_INLINE bool is_direct() const { return input.tiling.scheme.tile == 1; }
  DELTACONV_INLINE int64_t padded_width() const { return length(cols) + K() - 1; }

  DELTACONV_INLINE void start() {
    next = larger(rows.begin - K() / 2, 0);
    pack_weights(*problem, block, stage, false, weights);
    pack_bias(*problem, block, stage, bias);
    input.start();
  }

  // Convolves rows r to r + count - 1, count at most kRows, into activation(i, plane). Rows come in order.
  DELTACONV_INLINE void convolve_rows(int64_t r, int64_t count) {
    for (const int64_t last = smaller(r + count - 1 + K() / 2, plan->h - 1); next <= last; ++next) read_row(next);
    Rows<A> around = input.around(r, count);
    for (int64_t plane = 0; plane < block.planes(); ++plane) {
      around.offset = input.plane_offset(plane);
      convolve<A>(input.tiling.scheme, K(), around, count, input.tiling.tiles,
                  weights + plane * input.filter_size() * V, bias + plane * V,
                  {activation(0, plane), activation(1, plane)});
      for (int64_t i = 0; i < count && !is_direct(); ++i) {
        if (!is_finite(activation(i, plane))) convolve_directly(r + i, plane, activation(i, plane));
      }
    }
  }

  // The lanes in which tile t of a row is not finite. Its last output takes a share of each of its products, so an
  // infinity or a NaN in any of its inputs shows there.
  DELTACONV_INLINE auto not_finite(const A* row, int64_t t) const {
    const int64_t tile = input.tiling.scheme.tile;
    const Vector<A> last = load(row + (t * tile + tile - 1) * V), zero = last - last;
    return zero != zero;
  }

  DELTACONV_INLINE bool is_finite(const A* row) const {
    auto found = not_finite(row, 0);
    for (int64_t t = 1; t < input.tiling.tiles; ++t) found |= not_finite(row, t);
    bool all = true;
    for (int lane = 0; lane < V; ++lane) all = all && !found[lane];
    return all;
  }

  // A tile makes NaN of all its outputs where one input is not finite. Convolves row r again, tap by tap, for the tiles
  // and lanes where that happened: an infinity or a NaN reaches what its filter reaches, and nothing else changes.
  DELTACONV_NOINLINE void convolve_directly(int64_t r, int64_t plane, A* row) const {
    const T* filter = problem->weight + stage * K() * K() * problem->sizes.C + block.channel(plane);
    A* direct = padded + padded_width() * V;
    for (int64_t x = 0; x < length(cols); ++x) store(direct + x * V, load(bias + plane * V));
    for (int64_t i = 0; i < K(); ++i) {
      const int64_t from = r - K() / 2 + i;
      if (from < 0 || from >= plan->h) continue;
      read_plane(from, plane, padded);
      for (int64_t j = 0; j < K(); ++j) {
        const Vector<A> tap = load<false>(filter + (i * K() + j) * problem->sizes.C, block.lanes(plane));
        for (int64_t x = 0; x < length(cols); ++x) {
          store(direct + x * V, load(direct + x * V) + tap * load(padded + (x + j) * V));
        }
      }
    }
    const int64_t tile = input.tiling.scheme.tile;
    for (int64_t t = 0; t < input.tiling.tiles; ++t) {
      const auto replaced = not_finite(row, t);
      for (int64_t x = t * tile; x < smaller((t + 1) * tile, length(cols)); ++x) {
        store(row + x * V, replaced ? load(direct + x * V) : load(row + x * V));
      }
    }
  }

  // The grid's columns that the convolution needs.
  DELTACONV_INLINE Span inside() const { return clip({cols.begin - K() / 2, cols.end + K() / 2}, plan->w); }

  DELTACONV_INLINE void read_row(int64_t r) {
    for (int64_t plane = 0; plane < block.planes(); ++plane) read_plane(r, plane, nullptr);
  }

  // Reads a row of one plane: padded into `to`, or, where that is null, transformed into `input`.
  DELTACONV_INLINE void read_plane(int64_t r, int64_t plane, A* to) const {
    with_source(problem->x, image, block.channel(plane), block.lanes(plane), plan->factor, [&](auto source) {
      if (plan->factor == 1) {
        read_full(source, r, plane, to);
      } else if (plan->divides) {
        read_averaged(source, r, plane, to);
      } else {
        read_resampled(source, r, plane, to);
      }
    });
  }

  // Puts the row whose columns inside() are column(x).
  template <class Column>
  DELTACONV_INLINE void put(int64_t r, int64_t plane, A* to, const Column& column) const {
    const int64_t first = cols.begin - K() / 2;
    const Span range = inside();
    const auto at = [=](int64_t x) {
      x += first;
      return x >= range.begin && x < range.end ? column(x) : Vector<A>{};
    };
    if (!to) return input.put(r, plane, at);
    for (int64_t x = 0; x < padded_width(); ++x) store(to + x * V, at(x));
  }

  template <class Source>
  DELTACONV_NOINLINE void read_full(const Source& source, int64_t r, int64_t plane, A* to) const {
    const auto* line = source.row(r);
    put(r, plane, to, [=](int64_t x) { return source.at(line, x); });
  }

  template <class Source>
  DELTACONV_NOINLINE void read_averaged(const Source& source, int64_t r, int64_t plane, A* to) const {
    const int64_t factor = plan->factor;
    if (factor == 2) {
      put(r, plane, to, [=](int64_t x) { return average_window<A>(source, 2, r, x); });
    } else {
      put(r, plane, to, [=](int64_t x) { return average_window<A>(source, factor, r, x); });
    }
  }

  template <class Source>
  DELTACONV_NOINLINE void read_resampled(const Source& source, int64_t r, int64_t plane, A* to) const {
    A* out = resampled - inside().begin * V;
    resample_row(source, plan->pool_rows, plan->pool_cols, r, inside(), combined,
                 [=](int64_t x, Vector<A> value) { store(out + x * V, value); });
    put(r, plane, to, [=](int64_t x) { return load(out + x * V); });
  }
};

}  // namespace deltaconv::cpu::DELTACONV_ISA

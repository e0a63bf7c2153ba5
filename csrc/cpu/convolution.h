// One stage's convolution for one block of channels, row after row: x is read, pooled, widened and padded
// once.
#pragma once

#include "cpu/convolve.h"
#include "cpu/rows.h"

namespace deltaconv::cpu::DELTACONV_ISA {

inline constexpr int64_t kMaxK = 31;

// Rows are convolved in groups of kGroup to 2 * kGroup - 1 columns. What is done between two groups (reading
// the next row, the gate, writing) runs beside the multiplications that the processor still has in flight.
inline constexpr int64_t kGroup = 32;
inline constexpr int64_t kGroupPitch = 2 * kGroup + kColumnSlack;

// A kernel's taps for every plane: [planes][K * K] vectors.
template <class T>
DELTACONV_INLINE void pack_weights(const Problem<T>& problem, const Block<Accumulator<T>>& block,
                                   int64_t stage, bool flipped, Accumulator<T>* out) {
  using A = Accumulator<T>;
  const Sizes& sizes = problem.sizes;
  const int64_t taps = sizes.K * sizes.K;
  for (int64_t plane = 0; plane < block.planes(); ++plane) {
    const T* from = problem.weight + stage * taps * sizes.C + block.channel(plane);
    const int lanes = block.lanes(plane);
    for (int64_t tap = 0; tap < taps; ++tap, out += kLanes<A>) {
      store(out, load(from + (flipped ? taps - 1 - tap : tap) * sizes.C, lanes));
    }
  }
}

template <class T>
DELTACONV_INLINE void pack_bias(const Problem<T>& problem, const Block<Accumulator<T>>& block, int64_t stage,
                                Accumulator<T>* out) {
  using A = Accumulator<T>;
  for (int64_t plane = 0; plane < block.planes(); ++plane, out += kLanes<A>) {
    const T* from = problem.bias + stage * problem.sizes.C + block.channel(plane);
    store(out, problem.bias ? load(from, block.lanes(plane)) : Vector<A>{});
  }
}

// Pointers to the K rows around row r of a grid of `height` rows, at plane 0; null where there is none.
template <class A>
DELTACONV_INLINE void window(const Ring<A>& ring, int64_t r, int64_t K, int64_t height, const A** rows) {
  for (int64_t i = 0; i < K; ++i) {
    const int64_t from = r - K / 2 + i;
    rows[i] = from >= 0 && from < height ? ring.at(from, 0) : nullptr;
  }
}

// Calls visit(group) for the groups of [0, cols) in ascending order.
template <class Visit>
DELTACONV_INLINE void for_groups(int64_t cols, const Visit& visit) {
  for (int64_t begin = 0; begin < cols;) {
    const int64_t end = cols - begin < 2 * kGroup ? cols : begin + kGroup;
    visit(Range{begin, end});
    begin = end;
  }
}

template <class T>
struct Convolution {
  using A = Accumulator<T>;
  static constexpr int V = kLanes<A>;

  const Problem<T>* problem;
  const StagePlan<A>* plan;
  int64_t image, stage;
  Block<A> block;
  Range rows, cols;   // of the stage's grid, to be convolved
  Ring<A> pooled;     // rows of the pooled image, columns from cols.begin - K / 2, zeros outside of the grid
  int64_t next;       // first row not yet in `pooled`
  A *weights, *bias;  // [planes][K * K] and [planes] vectors
  A* activations;     // a convolved group: [planes][kGroupPitch] vectors
  A* combined;        // one row of x, between the two halves of a resampling
  ConvolveRow<A> convolve;

  DELTACONV_INLINE int64_t K() const { return problem->sizes.K; }
  DELTACONV_INLINE const A* activation(int64_t plane) const { return activations + plane * kGroupPitch * V; }

  // The grid's columns that `pooled` holds.
  DELTACONV_INLINE Range inside() const { return clip({cols.begin - K() / 2, cols.end + K() / 2}, plan->w); }

  // Lays out scratch memory; writes none of it.
  DELTACONV_INLINE void plan_memory(Arena& arena) {
    const int64_t taps = K() * K();
    pooled = take_ring<A>(arena, K() + 1, block.planes(), length(cols) + K() - 1 + kColumnSlack);
    weights = arena.take<A>(block.planes() * taps * V);
    bias = arena.take<A>(block.planes() * V);
    activations = arena.take<A>(block.planes() * kGroupPitch * V);
    const int64_t source_cols = plan->factor == 1 ? 0 : length(inputs_of(plan->pool_cols, inside()));
    combined = arena.take<A>(source_cols * V);
  }

  DELTACONV_INLINE void start() {
    convolve = convolve_row<A>(K());
    pack_weights(*problem, block, stage, false, weights);
    pack_bias(*problem, block, stage, bias);
    zero_vectors(pooled.data, pooled.depth * pooled.planes * pooled.width);
    const int64_t first = larger(rows.begin - K() / 2, 0), end = smaller(rows.begin + K() / 2 + 1, plan->h);
    for (next = first; next < end; ++next) read_row(next, inside());
  }

  // Convolves row r, the first time rows.begin, then one row on at each call. Between the groups it reads the
  // row that the next call needs. visit(group) finds the group's values, [0, length(group)), in
  // `activations`.
  template <class Visit>
  DELTACONV_INLINE void row(int64_t r, const Visit& visit) {
    const A* around[kMaxK];
    window(pooled, r, K(), plan->h, around);
    const Range ahead = next < plan->h && r + 1 < rows.end ? inside() : Range{0, 0};
    int64_t read = ahead.begin;
    for_groups(length(cols), [&](Range group) {
      for (int64_t plane = 0; plane < block.planes(); ++plane) {
        convolve(around, (plane * pooled.width + group.begin) * V, K(), length(group),
                 weights + plane * K() * K() * V, bias + plane * V, activations + plane * kGroupPitch * V);
      }
      visit(group);
      const int64_t read_end = ahead.begin + length(ahead) * group.end / length(cols);
      if (read_end > read) read_row(next, {read, read_end});
      read = read_end;
    });
    if (length(ahead)) ++next;
  }

  // Columns `part` of row r of the pooled image.
  DELTACONV_INLINE void read_row(int64_t r, Range part) {
    for (int64_t plane = 0; plane < block.planes(); ++plane) {
      const auto source =
          source_of(problem->x, image, block.channel(plane), block.lanes(plane), plan->factor);
      A* out = pooled.at(r, plane) + (K() / 2 - cols.begin) * V;
      const auto put = [&](int64_t x, Vector<A> value) { store(out + x * V, value); };
      if (plan->factor == 1) {
        copy_row(source, r, part, put);
      } else if (plan->divides) {
        average_windows<A>(source, plan->factor, r, part, put);
      } else {
        resample_row(source, plan->pool_rows, plan->pool_cols, r, part, combined, put);
      }
    }
  }
};

}  // namespace deltaconv::cpu::DELTACONV_ISA

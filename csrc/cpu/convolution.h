// One stage's convolution for one block of channels, row after row: x is read, pooled, widened and padded
// once.
#pragma once

#include "cpu/convolve.h"
#include "cpu/rows.h"

namespace deltaconv::cpu::DELTACONV_ISA {

inline constexpr int64_t kMaxK = 31;

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

// Pointers to the K padded rows around row `r` of a grid of `height` rows; null where there is none.
template <class A>
DELTACONV_INLINE void window(const Ring<A>& ring, int64_t r, int64_t plane, int64_t K, int64_t height,
                             const A** rows) {
  for (int64_t i = 0; i < K; ++i) {
    const int64_t from = r - K / 2 + i;
    rows[i] = from >= 0 && from < height ? ring.at(from, plane) : nullptr;
  }
}

template <class T>
struct Convolution {
  using A = Accumulator<T>;

  const Problem<T>* problem;
  const StagePlan<A>* plan;
  int64_t image, stage;
  Block<A> block;
  Range rows, cols;   // of the stage's grid, to be convolved
  Ring<A> pooled;     // rows of the pooled image, columns from cols.begin - K / 2, zeros outside of the grid
  int64_t next;       // first row not yet in `pooled`
  A *weights, *bias;  // [planes][K * K] and [planes] vectors
  A* combined;        // one row of x, between the two halves of a resampling
  ConvolveRow<A> convolve;

  DELTACONV_INLINE int64_t K() const { return problem->sizes.K; }

  // Lays out scratch memory; writes none of it.
  DELTACONV_INLINE void plan_memory(Arena& arena) {
    const int64_t taps = K() * K();
    pooled = take_ring<A>(arena, K(), block.planes(), length(cols) + K() - 1 + kColumnSlack);
    weights = arena.take<A>(block.planes() * taps * kLanes<A>);
    bias = arena.take<A>(block.planes() * kLanes<A>);
    const Range wide = clip({cols.begin - K() / 2, cols.end + K() / 2}, plan->w);
    const int64_t source_cols = plan->factor == 1 ? 0 : length(inputs_of(plan->pool_cols, wide));
    combined = arena.take<A>(source_cols * kLanes<A>);
  }

  DELTACONV_INLINE void start() {
    next = larger(rows.begin - K() / 2, 0);
    convolve = convolve_row<A>(K());
    pack_weights(*problem, block, stage, false, weights);
    pack_bias(*problem, block, stage, bias);
  }

  // Convolves row r of every plane: out is [planes][length(cols) + kColumnSlack] vectors. Rows come in order.
  DELTACONV_INLINE void row(int64_t r, A* out) {
    const int64_t taps = K() * K();
    for (const int64_t last = smaller(r + K() / 2, plan->h - 1); next <= last; ++next) read_row(next);
    const A* around[kMaxK];
    for (int64_t plane = 0; plane < block.planes(); ++plane) {
      window(pooled, r, plane, K(), plan->h, around);
      convolve(around, K(), length(cols), weights + plane * taps * kLanes<A>, bias + plane * kLanes<A>,
               out + plane * (length(cols) + kColumnSlack) * kLanes<A>);
    }
  }

  DELTACONV_INLINE void read_row(int64_t r) {
    const Range wide = {cols.begin - K() / 2, cols.end + K() / 2};
    const Range inside = clip(wide, plan->w);
    const int64_t left = inside.begin - wide.begin;
    for (int64_t plane = 0; plane < block.planes(); ++plane) {
      const auto source = source_of(problem->x, image, block.channel(plane), block.lanes(plane));
      A* out = pooled.at(r, plane);
      zero_vectors(out, left);
      A* to = out + left * kLanes<A>;
      if (plan->factor == 1) {
        copy_row(source, r, inside, to);
      } else {
        resample_row(source, plan->pool_rows, plan->pool_cols, r, inside, combined, to);
      }
      zero_vectors(to + length(inside) * kLanes<A>, pooled.width - left - length(inside));
    }
  }
};

}  // namespace deltaconv::cpu::DELTACONV_ISA

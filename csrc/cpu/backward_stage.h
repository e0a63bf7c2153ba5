// One stage of a task of the backward pass. Rows go from x through the recomputed convolution to its gradient, called
// the slope, and from there to the weight gradient and to the gradient of the pooled image.
#pragma once

#include "cpu/convolution.h"
#include "cpu/gate.h"
#include "cpu/weight_gradient.h"

namespace deltaconv::cpu::DELTACONV_ISA {

template <class T>
struct BackwardStage {
  using A = Accumulator<T>;
  static constexpr int V = kLanes<A>;

  const BackwardArguments<T>* arguments;
  Convolution<T> convolution;
  WeightGradient<T> weight_gradient;
  Span pooled_rows, pooled_cols;    // part of the stage's grid that the task's part of grad_x is made of
  int64_t next_slope, next_pooled;  // first rows not yet computed
  A* gradient;                      // the upsampling's adjoint of one row of grad, columns convolution.cols
  A* combined;                      // one row of grad, between the two halves of a resampling
  A* slope_row[2];                  // u's and v's slope, zero-padded, columns from slope_begin
  int64_t slope_begin, slope_width;
  TransformedRows<A> slope;  // slopes of all planes, for the convolution's adjoint
  Ring<A> pooled;            // columns from pooled_cols.begin
  A *flipped, *no_bias;      // [planes][points][K][chunks] vectors, one vector

  DELTACONV_INLINE const StagePlan<A>& plan() const { return *convolution.plan; }
  DELTACONV_INLINE int64_t K() const { return convolution.K(); }

  void plan_memory(const BackwardTask& task, int64_t index, Span rows, Span cols, Arena& arena);
  void start();
  template <Gate gate>
  void compute_slope();
  template <Gate gate>
  void compute_pooled();
  template <Gate gate>
  void compute_slope_row(int64_t r, int64_t i, int64_t vector);
  void read_gradient(int64_t r, int64_t vector) const;
  void finish_slope_row(int64_t r, int64_t half, int64_t plane) const;
};

// Plans the stage for the task's part of grad_x, rows x cols of the image.
template <class T>
void BackwardStage<T>::plan_memory(const BackwardTask& task, int64_t index, Span rows, Span cols, Arena& arena) {
  const Problem<T>& problem = arguments->problem;
  const StagePlan<A>& plan = problem.stages[index];
  const int64_t pad = problem.sizes.K / 2;
  const bool full = plan.factor == 1;

  weight_gradient.plan(*arguments, task, index);
  pooled_rows = full ? rows : inputs_of(plan.pool_adjoint_rows, rows);
  pooled_cols = full ? cols : inputs_of(plan.pool_adjoint_cols, cols);
  Span wide_rows = weight_gradient.rows, wide_cols = weight_gradient.cols;
  if (arguments->grad_x) {
    wide_rows = hull(wide_rows, {pooled_rows.begin - pad, pooled_rows.end + pad});
    wide_cols = hull(wide_cols, {pooled_cols.begin - pad, pooled_cols.end + pad});
  }
  convolution.problem = &problem;
  convolution.plan = &plan;
  convolution.image = task.image;
  convolution.stage = index;
  convolution.block = weight_gradient.block;
  convolution.rows = clip(wide_rows, plan.h);
  convolution.cols = clip(wide_cols, plan.w);
  convolution.plan_memory(arena);
  weight_gradient.plan_memory(arena, convolution.input.tiling);

  const int64_t planes = convolution.block.planes();
  const Tiling& tiling = convolution.input.tiling;
  next_slope = convolution.rows.begin;
  next_pooled = pooled_rows.begin;
  gradient = arena.take<A>(length(convolution.cols) * V);
  combined = arena.take<A>(full ? 0 : length(inputs_of(plan.upsample_adjoint_cols, convolution.cols)) * V);
  slope.plan_memory(arena, tiling.scheme, K(), plan.h, planes, length(pooled_cols), kRows - 1);
  slope_begin = smaller(convolution.cols.begin, pooled_cols.begin - pad);
  slope_width = larger(pooled_cols.begin - pad + slope.tiling.input_width(),
                       convolution.cols.begin + tiling.tiles * tiling.scheme.tile) -
                slope_begin;
  for (A*& row : slope_row) row = arena.take<A>(slope_width * V);
  const int64_t pooled_depth = full ? kRows : plan.pool_adjoint_rows.pitch + kRows - 1;
  pooled = take_ring<A>(arena, pooled_depth, planes, slope.tiling.output_width());
  flipped = arena.take<A>(planes * slope.filter_size() * V);
  no_bias = arena.take<A>(V);
}

template <class T>
void BackwardStage<T>::start() {
  convolution.start();
  slope.start();
  for (A* row : slope_row) zero_vectors(row, slope_width);
  pack_weights(arguments->problem, convolution.block, convolution.stage, true, flipped);
  zero_vectors(no_bias, 1);
}

// Computes the next rows of the gradient of the convolution, and their share of the weight gradient.
template <class T>
template <Gate gate>
void BackwardStage<T>::compute_slope() {
  const int64_t first = next_slope, count = smaller(kRows, convolution.rows.end - first);
  convolution.convolve_rows(first, count);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t vector = 0; vector < convolution.block.vectors; ++vector) {
      compute_slope_row<gate>(first + i, i, vector);
    }
    if (weight_gradient.owns(first + i)) weight_gradient.write_at_end_of_strip(first + i);
  }
  next_slope += count;
}

// Computes the slopes of u and v in row r, one vector of channels of each. The convolution is in activation(i, plane).
template <class T>
template <Gate gate>
DELTACONV_NOINLINE void BackwardStage<T>::compute_slope_row(int64_t r, int64_t i, int64_t vector) {
  const int64_t vectors = convolution.block.vectors;
  const A scale = arguments->problem.gate_scale;
  read_gradient(r, vector);
  const A *u = convolution.activation(i, vector), *v = convolution.activation(i, vector + vectors);
  const int64_t offset = (convolution.cols.begin - slope_begin) * V;
  A *to_u = slope_row[0] + offset, *to_v = slope_row[1] + offset;
  for (int64_t x = 0; x < length(convolution.cols) * V; x += V) {
    const auto slopes = gate_gradient<gate>(load(gradient + x), load(u + x), load(v + x), scale);
    store(to_u + x, slopes.u);
    store(to_v + x, slopes.v);
  }
  for (int64_t half = 0; half < 2; ++half) finish_slope_row(r, half, vector + half * vectors);
}

// Reads row r of grad as the gated convolution sees it, one vector of channels.
template <class T>
DELTACONV_NOINLINE void BackwardStage<T>::read_gradient(int64_t r, int64_t vector) const {
  const ChannelBlock<A>& block = convolution.block;
  const int64_t channel = convolution.stage * (arguments->problem.sizes.C / 2) + block.slice_channel(vector);
  A* out = gradient - convolution.cols.begin * V;
  const auto put = [=](int64_t x, Vector<A> value) { store(out + x * V, value); };
  with_source(arguments->grad, convolution.image, channel, block.lanes(vector), plan().factor, [&](auto source) {
    if (plan().factor == 1) {
      copy_row(source, r, convolution.cols, put);
    } else if (plan().factor == 2 && plan().divides) {
      const Resample<A>& map = plan().upsample_adjoint_rows;
      with_combined_rows(source, map.windows[r], map.weights + r * map.pitch, [&](const auto& column) {
        upsample_twice_adjoint<A>(column, arguments->problem.sizes.W, convolution.cols, put);
      });
    } else {
      resample_row(source, plan().upsample_adjoint_rows, plan().upsample_adjoint_cols, r, convolution.cols, combined,
                   put);
    }
  });
}

// Hands a slope row on to the convolution's adjoint and, if this task owns the row, to the weight gradient.
template <class T>
void BackwardStage<T>::finish_slope_row(int64_t r, int64_t half, int64_t plane) const {
  A* row = slope_row[half];
  const auto at = [&](int64_t col) { return row + (col - slope_begin) * V; };
  if (arguments->grad_x) {
    const A* first = at(pooled_cols.begin - K() / 2);
    slope.put(r, plane, [=](int64_t x) { return load(first + x * V); });
  }
  if (!weight_gradient.owns(r)) return;
  const Span own = weight_gradient.cols, cols = convolution.cols;
  zero_vectors(at(cols.begin), own.begin - cols.begin);
  zero_vectors(at(own.end), cols.end - own.end);
  Rows<A> around = convolution.input.around(r, 1);
  around.offset = convolution.input.plane_offset(plane);
  weight_gradient.add_row(r, plane, at(cols.begin), around);
}

// Computes the next rows of the gradient of the pooled image: the convolution's adjoint.
template <class T>
template <Gate gate>
void BackwardStage<T>::compute_pooled() {
  const int64_t first = next_pooled, count = smaller(kRows, pooled_rows.end - first);
  const int64_t last = smaller(first + count - 1 + K() / 2, slope.height - 1);
  while (next_slope <= last) compute_slope<gate>();
  Rows<A> around = slope.around(first, count);
  for (int64_t plane = 0; plane < convolution.block.planes(); ++plane) {
    around.offset = slope.plane_offset(plane);
    convolve<A>(slope.tiling.scheme, K(), around, count, slope.tiling.tiles, flipped + plane * slope.filter_size() * V,
                no_bias, {pooled.at(first, plane), pooled.at(first + 1, plane)});
  }
  next_pooled += count;
}

}  // namespace deltaconv::cpu::DELTACONV_ISA

#include "cpu/convolution.h"
#include "cpu/gate.h"
#include "cpu/kernels.h"

namespace deltaconv::cpu::DELTACONV_ISA {
namespace {

// The part [begin, end) of `parts` equal ones of an axis.
DELTACONV_INLINE Range share(Range parts, int64_t count, int64_t size) {
  return {parts.begin * size / count, parts.end * size / count};
}

// One stage of one task: its rows go from x through the recomputed convolution (`convolution`) to the
// gradient of the convolution (`slope`) and to the gradient of the pooled image (`pooled`).
template <class T>
struct BackwardStage {
  using A = Accumulator<T>;

  Convolution<T> convolution;
  Range own_rows, own_cols;        // of the stage's grid: this task's share of the weight gradient
  Range pooled_rows, pooled_cols;  // of the stage's grid: what this task's part of grad_x is made of
  A* gradient;                     // the upsampling's adjoint of a group of grad
  A* combined;                     // a group of grad, between the two halves of a resampling
  Ring<A> slope;                   // zero-padded, columns from slope_begin
  int64_t slope_begin;
  int64_t next_slope, next_pooled;  // first rows not yet computed
  Ring<A> pooled;                   // columns from pooled_cols.begin
  A *flipped, *no_bias;             // [planes][K * K] vectors, one vector
  A* sums;                          // [planes][K * K + 1] vectors of weight and bias gradient
};

template <class T>
struct Backward {
  using A = Accumulator<T>;
  static constexpr int V = kLanes<A>;

  const BackwardArguments<T>& arguments;
  const BackwardTask& task;
  BackwardStage<T>* stages;
  Range rows, cols;        // of the image
  A *combined, *finished;  // rows of grad_x

  Backward(const BackwardArguments<T>& arguments, const BackwardTask& task, Arena& arena, bool measure_only);

  BackwardStage<T> plan_stage(int64_t index, Arena& arena) const;
  template <Gate gate>
  void run();
  template <Gate gate>
  void compute_slope(BackwardStage<T>& stage);
  template <Gate gate>
  void compute_pooled(BackwardStage<T>& stage);
  void read_gradient(const BackwardStage<T>& stage, int64_t r, int64_t vector, Range group) const;
  void accumulate_sums(const BackwardStage<T>& stage, int64_t r) const;
  void write_sums(const BackwardStage<T>& stage, int64_t strip) const;
  void write_grad_x(int64_t y) const;
};

template <class T>
Backward<T>::Backward(const BackwardArguments<T>& arguments, const BackwardTask& task, Arena& arena,
                      bool measure_only)
    : arguments(arguments), task(task) {
  const Sizes& sizes = arguments.problem.sizes;
  const Partition& partition = arguments.partition;
  rows = share(task.strips, partition.strips, sizes.H);
  cols = share({task.panel, task.panel + 1}, partition.panels, sizes.W);
  stages = arena.take<BackwardStage<T>>(sizes.S);
  int64_t widest = 0;
  for (int64_t s = 0; s < sizes.S; ++s) {
    const BackwardStage<T> stage = plan_stage(s, arena);
    if (!measure_only) stages[s] = stage;
    widest = larger(widest, length(stage.pooled_cols));
  }
  combined = arena.take<A>(widest * V);
  finished = arena.take<A>(length(cols) * V);
}

template <class T>
BackwardStage<T> Backward<T>::plan_stage(int64_t index, Arena& arena) const {
  const Problem<T>& problem = arguments.problem;
  const StagePlan<A>& plan = problem.stages[index];
  const Partition& partition = arguments.partition;
  const int64_t K = problem.sizes.K, pad = K / 2;
  const bool full = plan.factor == 1;

  BackwardStage<T> stage;
  stage.own_rows = share(task.strips, partition.strips, plan.h);
  stage.own_cols = share({task.panel, task.panel + 1}, partition.panels, plan.w);
  stage.pooled_rows = full ? rows : inputs_of(plan.pool_adjoint_rows, rows);
  stage.pooled_cols = full ? cols : inputs_of(plan.pool_adjoint_cols, cols);
  Range wide_rows = stage.own_rows, wide_cols = stage.own_cols;
  if (arguments.grad_x) {
    wide_rows = hull(wide_rows, {stage.pooled_rows.begin - pad, stage.pooled_rows.end + pad});
    wide_cols = hull(wide_cols, {stage.pooled_cols.begin - pad, stage.pooled_cols.end + pad});
  }

  Convolution<T>& convolution = stage.convolution;
  convolution.problem = &problem;
  convolution.plan = &plan;
  convolution.image = task.image;
  convolution.stage = index;
  convolution.block = block_of<A>(problem.sizes, task.block);
  convolution.rows = clip(wide_rows, plan.h);
  convolution.cols = clip(wide_cols, plan.w);
  convolution.plan_memory(arena);

  const int64_t planes = convolution.block.planes();
  stage.gradient = arena.take<A>(kGroupPitch * V);
  stage.combined =
      arena.take<A>(full ? 0 : length(inputs_of(plan.upsample_adjoint_cols, convolution.cols)) * V);
  stage.slope_begin = wide_cols.begin;
  stage.slope = take_ring<A>(arena, K, planes, length(wide_cols) + kColumnSlack);
  stage.next_slope = convolution.rows.begin;
  stage.next_pooled = stage.pooled_rows.begin;
  const int64_t pooled_depth = full ? 1 : plan.pool_adjoint_rows.pitch;
  stage.pooled = take_ring<A>(arena, pooled_depth, planes, length(stage.pooled_cols) + kColumnSlack);
  stage.flipped = arena.take<A>(planes * K * K * V);
  stage.no_bias = arena.take<A>(V);
  stage.sums = arena.take<A>(planes * (K * K + 1) * V);
  return stage;
}

template <class T>
template <Gate gate>
void Backward<T>::run() {
  const int64_t S = arguments.problem.sizes.S;
  for (int64_t s = 0; s < S; ++s) {
    BackwardStage<T>& stage = stages[s];
    stage.convolution.start();
    pack_weights(arguments.problem, stage.convolution.block, s, true, stage.flipped);
    zero_vectors(stage.no_bias, 1);
    zero_vectors(stage.slope.data, stage.slope.depth * stage.slope.planes * stage.slope.width);
  }
  for (int64_t y = rows.begin; arguments.grad_x && y < rows.end; ++y) {
    for (int64_t s = 0; s < S; ++s) {
      BackwardStage<T>& stage = stages[s];
      const StagePlan<A>& plan = *stage.convolution.plan;
      const int64_t end = plan.factor == 1 ? y + 1 : inputs_of(plan.pool_adjoint_rows, {y, y + 1}).end;
      while (stage.next_pooled < end) compute_pooled<gate>(stage);
    }
    write_grad_x(y);
  }
  for (int64_t s = 0; s < S; ++s) {
    while (stages[s].next_slope < stages[s].convolution.rows.end) compute_slope<gate>(stages[s]);
  }
}

// The next row of the gradient of the convolution, and its share of the weight gradient.
template <class T>
template <Gate gate>
void Backward<T>::compute_slope(BackwardStage<T>& stage) {
  Convolution<T>& convolution = stage.convolution;
  const int64_t r = stage.next_slope++, vectors = convolution.block.vectors;
  const int64_t left = convolution.cols.begin - stage.slope_begin;
  const A scale = arguments.problem.gate_scale;
  convolution.row(r, [&](Range group) {
    for (int64_t i = 0; i < vectors; ++i) {
      read_gradient(stage, r, i, group);
      const A *u = convolution.activation(i), *v = convolution.activation(i + vectors);
      A* to_u = stage.slope.at(r, i) + (left + group.begin) * V;
      A* to_v = stage.slope.at(r, i + vectors) + (left + group.begin) * V;
      for (int64_t x = 0; x < length(group) * V; x += V) {
        const auto gradient = gate_gradient<gate>(load(stage.gradient + x), load(u + x), load(v + x), scale);
        store(to_u + x, gradient.u);
        store(to_v + x, gradient.v);
      }
    }
  });
  if (arguments.partials && r >= stage.own_rows.begin && r < stage.own_rows.end) accumulate_sums(stage, r);
}

// A group of row r of grad as the gated convolution of `stage` sees it, one vector of channels.
template <class T>
void Backward<T>::read_gradient(const BackwardStage<T>& stage, int64_t r, int64_t vector, Range group) const {
  const Convolution<T>& convolution = stage.convolution;
  const StagePlan<A>& plan = *convolution.plan;
  const Block<A>& block = convolution.block;
  const int64_t channel = convolution.stage * (arguments.problem.sizes.C / 2) + block.slice_channel(vector);
  const Range part{convolution.cols.begin + group.begin, convolution.cols.begin + group.end};
  const int64_t rows_ahead = plan.factor;  // as far as the next row's span starts
  const auto source = source_of(arguments.grad, task.image, channel, block.lanes(vector), rows_ahead);
  const auto put = [&](int64_t x, Vector<A> value) { store(stage.gradient + (x - part.begin) * V, value); };
  if (plan.factor == 1) {
    copy_row(source, r, part, put);
  } else {
    resample_row(source, plan.upsample_adjoint_rows, plan.upsample_adjoint_cols, r, part, stage.combined,
                 put);
  }
}

// Row r's share of the weight and bias gradient. A strip's sums start from zero and are written at its end,
// so that they do not depend on how strips are grouped into tasks.
template <class T>
void Backward<T>::accumulate_sums(const BackwardStage<T>& stage, int64_t r) const {
  const Convolution<T>& convolution = stage.convolution;
  const int64_t K = arguments.problem.sizes.K, taps = K * K + 1, planes = convolution.block.planes();
  const int64_t h = convolution.plan->h, strips = arguments.partition.strips;
  const int64_t strip = ((r + 1) * strips - 1) / h;  // the one that owns row r
  const Range own = share({strip, strip + 1}, strips, h);
  if (r == own.begin) zero_vectors(stage.sums, planes * taps);
  const AccumulateWeight<A> accumulate = accumulate_weight<A>(K);
  const int64_t cols = length(stage.own_cols), first = stage.own_cols.begin - convolution.cols.begin;
  const A* around[kMaxK];
  window(convolution.pooled, r, K, h, around);
  for (int64_t plane = 0; plane < planes; ++plane) {
    const A* slope = stage.slope.at(r, plane) + (stage.own_cols.begin - stage.slope_begin) * V;
    A* sums = stage.sums + plane * taps * V;
    accumulate(around, (plane * convolution.pooled.width + first) * V, K, cols, slope, sums);
    Vector<A> bias = load(sums + K * K * V);
    for (int64_t x = 0; x < cols; ++x) bias += load(slope + x * V);
    store(sums + K * K * V, bias);
  }
  if (r == own.end - 1) write_sums(stage, strip);
}

template <class T>
void Backward<T>::write_sums(const BackwardStage<T>& stage, int64_t strip) const {
  const Sizes& sizes = arguments.problem.sizes;
  const Partition& partition = arguments.partition;
  const Block<A>& block = stage.convolution.block;
  const int64_t taps = sizes.K * sizes.K + 1;
  const int64_t part = (task.image * partition.strips + strip) * partition.panels + task.panel;
  for (int64_t plane = 0; plane < block.planes(); ++plane) {
    A* to = arguments.partials + (part * sizes.S + stage.convolution.stage) * taps * sizes.C +
            block.channel(plane);
    const A* sums = stage.sums + plane * taps * V;
    for (int64_t tap = 0; tap < taps; ++tap)
      store(to + tap * sizes.C, load(sums + tap * V), block.lanes(plane));
  }
}

// The next row of the gradient of the pooled image: the convolution's adjoint.
template <class T>
template <Gate gate>
void Backward<T>::compute_pooled(BackwardStage<T>& stage) {
  const Convolution<T>& convolution = stage.convolution;
  const int64_t K = arguments.problem.sizes.K, r = stage.next_pooled++;
  const int64_t last = smaller(r + K / 2, convolution.plan->h - 1);
  while (stage.next_slope <= last) compute_slope<gate>(stage);
  const int64_t first = stage.pooled_cols.begin - K / 2 - stage.slope_begin;
  const A* around[kMaxK];
  window(stage.slope, r, K, convolution.plan->h, around);
  for (int64_t plane = 0; plane < convolution.block.planes(); ++plane) {
    convolution.convolve(around, (plane * stage.slope.width + first) * V, K, length(stage.pooled_cols),
                         stage.flipped + plane * K * K * V, stage.no_bias, stage.pooled.at(r, plane));
  }
}

// The pooling's adjoint, summed over the stages and rounded once.
template <class T>
void Backward<T>::write_grad_x(int64_t y) const {
  const Sizes& sizes = arguments.problem.sizes;
  const Block<A> block = block_of<A>(sizes, task.block);
  for (int64_t plane = 0; plane < block.planes(); ++plane) {
    zero_vectors(finished, length(cols));
    const auto add = [&](int64_t x, Vector<A> value) {
      A* to = finished + (x - cols.begin) * V;
      store(to, load(to) + value);
    };
    for (int64_t s = 0; s < sizes.S; ++s) {
      const BackwardStage<T>& stage = stages[s];
      const StagePlan<A>& plan = *stage.convolution.plan;
      const RingSource<A> source{stage.pooled, plane, stage.pooled_cols.begin};
      if (plan.factor == 1) {
        copy_row(source, y, cols, add);
      } else {
        resample_row(source, plan.pool_adjoint_rows, plan.pool_adjoint_cols, y, cols, combined, add);
      }
    }
    T* out = arguments.grad_x + ((task.image * sizes.H + y) * sizes.W + cols.begin) * sizes.C +
             block.channel(plane);
    const int lanes = block.lanes(plane);
    for (int64_t x = 0; x < length(cols); ++x) {
      __builtin_prefetch(out + (x + sizes.W) * sizes.C, 1);
      store(out + x * sizes.C, load(finished + x * V), lanes);
    }
  }
}

}  // namespace

template <class T>
int64_t backward_scratch(const BackwardArguments<T>& arguments, const BackwardTask& task) {
  Arena arena{0};
  Backward<T>(arguments, task, arena, true);
  return static_cast<int64_t>(arena.cursor);
}

template <class T>
void backward(const BackwardArguments<T>& arguments, const BackwardTask& task, void* scratch) {
  Arena arena{reinterpret_cast<uintptr_t>(scratch)};
  Backward<T> pass(arguments, task, arena, false);
  if (arguments.problem.gate == Gate::kScaled) {
    pass.template run<Gate::kScaled>();
  } else {
    pass.template run<Gate::kSigmoid>();
  }
}

template <class T>
void reduce(const Accumulator<T>* partials, int64_t count, int64_t stride, Range range, T* out) {
  using A = Accumulator<T>;
  for (int64_t i = range.begin; i < range.end; i += kLanes<A>) {
    const int lanes = int(smaller(kLanes<A>, range.end - i));
    Vector<A> sum = load(partials + i, lanes);
    for (int64_t p = 1; p < count; ++p) sum += load(partials + p * stride + i, lanes);
    store(out + i, sum, lanes);
  }
}

#define DELTACONV_INSTANTIATE(T)                                                          \
  template int64_t backward_scratch<T>(const BackwardArguments<T>&, const BackwardTask&); \
  template void backward<T>(const BackwardArguments<T>&, const BackwardTask&, void*);     \
  template void reduce<T>(const Accumulator<T>*, int64_t, int64_t, Range, T*);
DELTACONV_INSTANTIATE(float)
DELTACONV_INSTANTIATE(double)
DELTACONV_INSTANTIATE(Half)
DELTACONV_INSTANTIATE(BFloat16)

}  // namespace deltaconv::cpu::DELTACONV_ISA

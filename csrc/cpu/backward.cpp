#include "cpu/convolution.h"
#include "cpu/gate.h"
#include "cpu/kernels.h"

namespace deltaconv::cpu::DELTACONV_ISA {
namespace {

// The part [begin, end) of `parts` equal ones of an axis.
DELTACONV_INLINE Range share(Range parts, int64_t count, int64_t size) {
  return {parts.begin * size / count, parts.end * size / count};
}

// One stage of one task: its rows go from x through the recomputed convolution to its gradient, the slope,
// and from there to the gradient of the pooled image.
template <class T>
struct BackwardStage {
  using A = Accumulator<T>;

  Convolution<T> convolution;
  Range own_rows, own_cols;         // of the stage's grid: this task's share of the weight gradient
  Range pooled_rows, pooled_cols;   // of the stage's grid: what this task's part of grad_x is made of
  int64_t next_slope, next_pooled;  // first rows not yet computed
  A* gradient;                      // the upsampling's adjoint of one row of grad, columns convolution.cols
  A* combined;                      // one row of grad, between the two halves of a resampling
  A* slope_row[2];                  // u's and v's slope, zero-padded, columns from slope_begin
  int64_t slope_begin, slope_width;
  TransformedRows<A> slope;  // rows of all planes, for the convolution's adjoint
  Ring<A> pooled;            // columns from pooled_cols.begin
  A *flipped, *no_bias;      // [planes][points][K][chunks] vectors, one vector
  A* filters;                // a transformed slope_row as accumulate() takes it
  A* sums;                   // [planes][points][K][chunks] vectors of weight gradient
  A* bias_sums;              // [planes] vectors
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
  void read_gradient(const BackwardStage<T>& stage, int64_t r, int64_t vector) const;
  void finish_slope_row(const BackwardStage<T>& stage, int64_t r, int64_t half, int64_t plane,
                        bool own) const;
  int64_t strip_of(const BackwardStage<T>& stage, int64_t r) const;
  Range strip_rows(const BackwardStage<T>& stage, int64_t r) const;
  void write_sums_at_end_of_strip(const BackwardStage<T>& stage, int64_t r) const;
  void write_grad_x(int64_t y, int64_t plane) const;
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
  const Tiling& tiling = convolution.input.tiling;
  stage.next_slope = convolution.rows.begin;
  stage.next_pooled = stage.pooled_rows.begin;
  stage.gradient = arena.take<A>(length(convolution.cols) * V);
  stage.combined =
      arena.take<A>(full ? 0 : length(inputs_of(plan.upsample_adjoint_cols, convolution.cols)) * V);
  stage.slope.plan_memory(arena, K, plan.h, planes, length(stage.pooled_cols), kRows - 1);
  stage.slope_begin = smaller(convolution.cols.begin, stage.pooled_cols.begin - pad);
  stage.slope_width = larger(stage.pooled_cols.begin - pad + stage.slope.tiling.input_width(),
                             convolution.cols.begin + tiling.tiles * tiling.scheme.tile) -
                      stage.slope_begin;
  for (A*& row : stage.slope_row) row = arena.take<A>(stage.slope_width * V);
  const int64_t pooled_depth = full ? kRows : plan.pool_adjoint_rows.pitch + kRows - 1;
  stage.pooled = take_ring<A>(arena, pooled_depth, planes, stage.slope.tiling.output_width());
  stage.flipped = arena.take<A>(planes * stage.slope.filter_size() * V);
  stage.no_bias = arena.take<A>(V);
  stage.filters = arena.take<A>(tiling.scheme.points * tiling.tiles * V);
  stage.sums = arena.take<A>(planes * convolution.input.filter_size() * V);
  stage.bias_sums = arena.take<A>(planes * V);
  return stage;
}

template <class T>
template <Gate gate>
void Backward<T>::run() {
  const int64_t S = arguments.problem.sizes.S;
  for (int64_t s = 0; s < S; ++s) {
    BackwardStage<T>& stage = stages[s];
    stage.convolution.start();
    stage.slope.start();
    for (A* row : stage.slope_row) zero_vectors(row, stage.slope_width);
    pack_weights(arguments.problem, stage.convolution.block, s, true, stage.flipped);
    zero_vectors(stage.no_bias, 1);
  }
  for (int64_t y = rows.begin; arguments.grad_x && y < rows.end; ++y) {
    for (int64_t s = 0; s < S; ++s) {
      BackwardStage<T>& stage = stages[s];
      const StagePlan<A>& plan = *stage.convolution.plan;
      const int64_t end = plan.factor == 1 ? y + 1 : inputs_of(plan.pool_adjoint_rows, {y, y + 1}).end;
      while (stage.next_pooled < end) compute_pooled<gate>(stage);
    }
    for (int64_t plane = 0; plane < block_of<A>(arguments.problem.sizes, task.block).planes(); ++plane) {
      write_grad_x(y, plane);
    }
  }
  for (int64_t s = 0; s < S; ++s) {
    while (stages[s].next_slope < stages[s].convolution.rows.end) compute_slope<gate>(stages[s]);
  }
}

// The next rows of the gradient of the convolution, and their share of the weight gradient.
template <class T>
template <Gate gate>
void Backward<T>::compute_slope(BackwardStage<T>& stage) {
  Convolution<T>& convolution = stage.convolution;
  const int64_t first = stage.next_slope, count = smaller(kRows, convolution.rows.end - first);
  const int64_t vectors = convolution.block.vectors, cols = length(convolution.cols);
  const A scale = arguments.problem.gate_scale;
  convolution.convolve_rows(first, count);
  for (int64_t r = first; r < first + count; ++r) {
    const bool own = arguments.partials && r >= stage.own_rows.begin && r < stage.own_rows.end;
    for (int64_t i = 0; i < vectors; ++i) {
      read_gradient(stage, r, i);
      const A* u = convolution.activation(r - first, i);
      const A* v = convolution.activation(r - first, i + vectors);
      const int64_t offset = (convolution.cols.begin - stage.slope_begin) * V;
      A *to_u = stage.slope_row[0] + offset, *to_v = stage.slope_row[1] + offset;
      for (int64_t x = 0; x < cols * V; x += V) {
        const auto gradient = gate_gradient<gate>(load(stage.gradient + x), load(u + x), load(v + x), scale);
        store(to_u + x, gradient.u);
        store(to_v + x, gradient.v);
      }
      for (int64_t half = 0; half < 2; ++half) finish_slope_row(stage, r, half, i + half * vectors, own);
    }
    if (own) write_sums_at_end_of_strip(stage, r);
  }
  stage.next_slope += count;
}

// Row r of grad as the gated convolution of `stage` sees it, one vector of channels.
template <class T>
DELTACONV_NOINLINE void Backward<T>::read_gradient(const BackwardStage<T>& stage, int64_t r,
                                                   int64_t vector) const {
  const Convolution<T>& convolution = stage.convolution;
  const StagePlan<A>& plan = *convolution.plan;
  const Block<A>& block = convolution.block;
  const int64_t channel = convolution.stage * (arguments.problem.sizes.C / 2) + block.slice_channel(vector);
  A* out = stage.gradient - convolution.cols.begin * V;
  const auto put = [=](int64_t x, Vector<A> value) { store(out + x * V, value); };
  with_source(arguments.grad, task.image, channel, block.lanes(vector), plan.factor, [&](auto source) {
    if (plan.factor == 1) {
      copy_row(source, r, convolution.cols, put);
    } else if (plan.factor == 2 && plan.divides) {
      const Resample<A>& map = plan.upsample_adjoint_rows;
      with_combined_rows(source, map.spans[r], map.weights + r * map.pitch, [&](const auto& column) {
        upsample_twice_adjoint<A>(column, arguments.problem.sizes.W, convolution.cols, put);
      });
    } else {
      resample_row(source, plan.upsample_adjoint_rows, plan.upsample_adjoint_cols, r, convolution.cols,
                   stage.combined, put);
    }
  });
}

// Hands a slope row on: to the convolution's adjoint and, if this task owns the row, to the weight gradient.
template <class T>
void Backward<T>::finish_slope_row(const BackwardStage<T>& stage, int64_t r, int64_t half, int64_t plane,
                                   bool own) const {
  const Convolution<T>& convolution = stage.convolution;
  const int64_t K = arguments.problem.sizes.K;
  A* row = stage.slope_row[half];
  const auto at = [&](int64_t col) { return row + (col - stage.slope_begin) * V; };
  if (arguments.grad_x) {
    const A* first = at(stage.pooled_cols.begin - K / 2);
    stage.slope.put(r, plane, [=](int64_t x) { return load(first + x * V); });
  }
  if (!own) return;

  zero_vectors(at(convolution.cols.begin), stage.own_cols.begin - convolution.cols.begin);
  zero_vectors(at(stage.own_cols.end), convolution.cols.end - stage.own_cols.end);
  const Tiling& tiling = convolution.input.tiling;
  with_tile(tiling.scheme.tile, [&]<int M>() {
    transform_filters<M>(at(convolution.cols.begin), tiling.tiles, tiling.tiles, stage.filters);
  });
  A* sums = stage.sums + plane * convolution.input.filter_size() * V;
  A* bias_sum = stage.bias_sums + plane * V;
  if (r == strip_rows(stage, r).begin) {
    zero_vectors(sums, convolution.input.filter_size());
    zero_vectors(bias_sum, 1);
  }
  Rows<A> around = convolution.input.around(r, 1);
  around.offset = convolution.input.plane_offset(plane);
  accumulate<A>(tiling.scheme, K, around, tiling.tiles, stage.filters, sums);
  Vector<A> bias = load(bias_sum);
  for (int64_t x = stage.own_cols.begin; x < stage.own_cols.end; ++x) bias += load(at(x));
  store(bias_sum, bias);
}

// The strip that owns row r. Its sums start from zero and are written at its end, so that they do not depend
// on how strips are grouped into tasks.
template <class T>
int64_t Backward<T>::strip_of(const BackwardStage<T>& stage, int64_t r) const {
  return ((r + 1) * arguments.partition.strips - 1) / stage.convolution.plan->h;
}

template <class T>
Range Backward<T>::strip_rows(const BackwardStage<T>& stage, int64_t r) const {
  const int64_t strip = strip_of(stage, r);
  return share({strip, strip + 1}, arguments.partition.strips, stage.convolution.plan->h);
}

template <class T>
void Backward<T>::write_sums_at_end_of_strip(const BackwardStage<T>& stage, int64_t r) const {
  if (r != strip_rows(stage, r).end - 1) return;
  const Sizes& sizes = arguments.problem.sizes;
  const Partition& partition = arguments.partition;
  const Block<A>& block = stage.convolution.block;
  const Scheme& scheme = stage.convolution.input.tiling.scheme;
  const int64_t K = sizes.K, chunks = scheme.chunks;
  const int64_t part = (task.image * partition.strips + strip_of(stage, r)) * partition.panels + task.panel;
  A taps[(kMaxK + 3) * V];
  for (int64_t plane = 0; plane < block.planes(); ++plane) {
    const A* sums = stage.sums + plane * scheme.points * K * chunks * V;
    const int lanes = block.lanes(plane);
    A* to = arguments.partials + (part * sizes.S + stage.convolution.stage) * (K * K + 1) * sizes.C +
            block.channel(plane);
    for (int64_t i = 0; i < K; ++i) {
      with_tile(scheme.tile, [&]<int M>() {
        transform_outputs<M>(sums + i * chunks * V, chunks, K * chunks, Vector<A>{}, taps);
      });
      with_lanes<A>(lanes, [&]<bool Full>() {
        for (int64_t j = 0; j < K; ++j, to += sizes.C) store<Full>(to, load(taps + j * V), lanes);
      });
    }
    store<false>(to, load(stage.bias_sums + plane * V), lanes);
  }
}

// The next rows of the gradient of the pooled image: the convolution's adjoint.
template <class T>
template <Gate gate>
void Backward<T>::compute_pooled(BackwardStage<T>& stage) {
  const Convolution<T>& convolution = stage.convolution;
  const TransformedRows<A>& slope = stage.slope;
  const int64_t K = slope.K, first = stage.next_pooled, count = smaller(kRows, stage.pooled_rows.end - first);
  const int64_t last = smaller(first + count - 1 + K / 2, slope.height - 1);
  while (stage.next_slope <= last) compute_slope<gate>(stage);
  Rows<A> around = slope.around(first, count);
  for (int64_t plane = 0; plane < convolution.block.planes(); ++plane) {
    around.offset = slope.plane_offset(plane);
    convolve<A>(slope.tiling.scheme, K, around, count, slope.tiling.tiles,
                stage.flipped + plane * slope.filter_size() * V, stage.no_bias,
                {stage.pooled.at(first, plane), stage.pooled.at(first + 1, plane)});
  }
  stage.next_pooled += count;
}

// The pooling's adjoint, summed over the stages and rounded once.
template <class T>
DELTACONV_NOINLINE void Backward<T>::write_grad_x(int64_t y, int64_t plane) const {
  const Sizes& sizes = arguments.problem.sizes;
  const Block<A> block = block_of<A>(sizes, task.block);
  A* sum = finished - cols.begin * V;
  for (int64_t s = 0; s < sizes.S; ++s) {
    const BackwardStage<T>& stage = stages[s];
    const StagePlan<A>& plan = *stage.convolution.plan;
    const RingSource<A> source{stage.pooled, plane, stage.pooled_cols.begin};
    const auto resample = [&](const auto& put) {
      if (plan.factor == 1) {
        copy_row(source, y, cols, put);
      } else if (plan.divides) {
        spread_windows<A>(source, plan.factor, y, cols, put);
      } else {
        resample_row(source, plan.pool_adjoint_rows, plan.pool_adjoint_cols, y, cols, combined, put);
      }
    };
    if (s == 0) {
      resample([=](int64_t x, Vector<A> value) { store(sum + x * V, value); });
    } else {
      resample([=](int64_t x, Vector<A> value) { store(sum + x * V, load(sum + x * V) + value); });
    }
  }
  T* out = arguments.grad_x + (task.image * sizes.H + y) * sizes.W * sizes.C + block.channel(plane);
  const int64_t C = sizes.C, row = sizes.W * C;
  const Range range = cols;
  const int lanes = block.lanes(plane);
  with_lanes<A>(lanes, [=]<bool Full>() {
    for (int64_t x = range.begin; x < range.end; ++x) {
      prefetch(out + x * C + row);
      store<Full>(out + x * C, load(sum + x * V), lanes);
    }
  });
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
    with_lanes<A>(lanes, [&]<bool Full>() {
      Vector<A> sum = load<Full>(partials + i, lanes);
      for (int64_t p = 1; p < count; ++p) sum += load<Full>(partials + p * stride + i, lanes);
      store<Full>(out + i, sum, lanes);
    });
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

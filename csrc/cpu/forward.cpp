#include "cpu/convolution.h"
#include "cpu/gate.h"
#include "cpu/kernels.h"

namespace deltaconv::cpu::DELTACONV_ISA {
namespace {

template <class T>
struct ForwardStage {
  using A = Accumulator<T>;

  Convolution<T> convolution;
  int64_t next;   // first row not yet gated
  Ring<A> gated;  // rows of the gated convolution, columns convolution.cols; unused at full resolution
  A* combined;    // one row, between the two halves of the upsampling
};

// One row of a stage's slice of the result, one vector of channels.
template <class T>
struct ResultRow {
  using A = Accumulator<T>;

  T* out;
  const T* residual;
  int64_t col_stride, residual_col_stride, row_stride;
  int lanes;

  DELTACONV_INLINE void put(int64_t x, Vector<A> value) const {
    T* to = out + x * col_stride;
    __builtin_prefetch(to + row_stride, 1);
    if (residual) value += load(residual + x * residual_col_stride, lanes);
    store(to, value, lanes);
  }
};

// All stages of a rectangle of the result advance together, so that x is read from memory once.
template <class T>
struct Forward {
  using A = Accumulator<T>;
  static constexpr int V = kLanes<A>;

  const ForwardArguments<T>& arguments;
  const ForwardTask& task;
  ForwardStage<T>* stages;

  Forward(const ForwardArguments<T>& arguments, const ForwardTask& task, Arena& arena, bool measure_only)
      : arguments(arguments), task(task) {
    const int64_t S = arguments.problem.sizes.S;
    stages = arena.take<ForwardStage<T>>(S);
    for (int64_t s = 0; s < S; ++s) {
      const ForwardStage<T> stage = plan_stage(s, arena);
      if (!measure_only) stages[s] = stage;
    }
  }

  ForwardStage<T> plan_stage(int64_t index, Arena& arena) const;
  template <Gate gate>
  void run();
  template <Gate gate>
  void compute_gated(ForwardStage<T>& stage);
  void upsample_row(const ForwardStage<T>& stage, int64_t y, int64_t vector) const;
  ResultRow<T> result_row(const Convolution<T>& convolution, int64_t y, int64_t vector) const;
};

template <class T>
ForwardStage<T> Forward<T>::plan_stage(int64_t index, Arena& arena) const {
  const Problem<T>& problem = arguments.problem;
  const StagePlan<A>& plan = problem.stages[index];
  const bool full = plan.factor == 1;
  ForwardStage<T> stage;
  Convolution<T>& convolution = stage.convolution;
  convolution.problem = &problem;
  convolution.plan = &plan;
  convolution.image = task.image;
  convolution.stage = index;
  convolution.block = block_of<A>(problem.sizes, task.block);
  convolution.rows = full ? task.rows : inputs_of(plan.upsample_rows, task.rows);
  convolution.cols = full ? task.cols : inputs_of(plan.upsample_cols, task.cols);
  convolution.plan_memory(arena);
  const int64_t cols = full ? 0 : length(convolution.cols);
  stage.next = convolution.rows.begin;
  stage.gated =
      take_ring<A>(arena, full ? 1 : plan.upsample_rows.pitch + kRows - 1, convolution.block.vectors, cols);
  stage.combined = arena.take<A>(cols * V);
  return stage;
}

template <class T>
template <Gate gate>
void Forward<T>::run() {
  const int64_t S = arguments.problem.sizes.S;
  for (int64_t s = 0; s < S; ++s) stages[s].convolution.start();
  for (int64_t y = task.rows.begin; y < task.rows.end; ++y) {
    for (int64_t s = 0; s < S; ++s) {
      ForwardStage<T>& stage = stages[s];
      const StagePlan<A>& plan = *stage.convolution.plan;
      const int64_t end = plan.factor == 1 ? y + 1 : inputs_of(plan.upsample_rows, {y, y + 1}).end;
      while (stage.next < end) compute_gated<gate>(stage);
      for (int64_t i = 0; plan.factor != 1 && i < stage.convolution.block.vectors; ++i) {
        upsample_row(stage, y, i);
      }
    }
  }
}

// The next rows of the gated convolution; at full resolution they are rows of the result.
template <class T>
template <Gate gate>
void Forward<T>::compute_gated(ForwardStage<T>& stage) {
  Convolution<T>& convolution = stage.convolution;
  const int64_t first = stage.next, count = smaller(kRows, convolution.rows.end - first);
  const int64_t vectors = convolution.block.vectors, cols = length(convolution.cols);
  const A scale = arguments.problem.gate_scale;
  convolution.convolve_rows(first, count);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t vector = 0; vector < vectors; ++vector) {
      const A *u = convolution.activation(i, vector), *v = convolution.activation(i, vector + vectors);
      const auto gate_row = [&](const auto& put) {
        for (int64_t x = 0; x < cols; ++x, u += V, v += V) put(x, apply_gate<gate>(load(u), load(v), scale));
      };
      if (convolution.plan->factor == 1) {
        const ResultRow<T> row = result_row(convolution, first + i, vector);
        gate_row([&](int64_t x, Vector<A> value) { row.put(convolution.cols.begin + x, value); });
      } else {
        A* out = stage.gated.at(first + i, vector);
        gate_row([&](int64_t x, Vector<A> value) { store(out + x * V, value); });
      }
    }
  }
  stage.next += count;
}

template <class T>
void Forward<T>::upsample_row(const ForwardStage<T>& stage, int64_t y, int64_t vector) const {
  const Convolution<T>& convolution = stage.convolution;
  const StagePlan<A>& plan = *convolution.plan;
  const RingSource<A> source{stage.gated, vector, convolution.cols.begin};
  const ResultRow<T> row = result_row(convolution, y, vector);
  resample_row(source, plan.upsample_rows, plan.upsample_cols, y, task.cols, stage.combined,
               [&](int64_t x, Vector<A> value) { row.put(x, value); });
}

template <class T>
ResultRow<T> Forward<T>::result_row(const Convolution<T>& convolution, int64_t y, int64_t vector) const {
  const Image<T>& result = arguments.result;
  const Image<const T>& residual = arguments.residual;
  const Block<A>& block = convolution.block;
  const int64_t channel = convolution.stage * (arguments.problem.sizes.C / 2) + block.slice_channel(vector);
  const T* add = residual.data + task.image * residual.batch_stride + y * residual.row_stride + channel;
  return {result.data + task.image * result.batch_stride + y * result.row_stride + channel,
          residual.data ? add : nullptr,
          result.col_stride,
          residual.col_stride,
          result.row_stride,
          block.lanes(vector)};
}

}  // namespace

template <class T>
int64_t forward_scratch(const ForwardArguments<T>& arguments, const ForwardTask& task) {
  Arena arena{0};
  Forward<T>(arguments, task, arena, true);
  return static_cast<int64_t>(arena.cursor);
}

template <class T>
void forward(const ForwardArguments<T>& arguments, const ForwardTask& task, void* scratch) {
  Arena arena{reinterpret_cast<uintptr_t>(scratch)};
  Forward<T> pass(arguments, task, arena, false);
  if (arguments.problem.gate == Gate::kScaled) {
    pass.template run<Gate::kScaled>();
  } else {
    pass.template run<Gate::kSigmoid>();
  }
}

#define DELTACONV_INSTANTIATE(T)                                                       \
  template int64_t forward_scratch<T>(const ForwardArguments<T>&, const ForwardTask&); \
  template void forward<T>(const ForwardArguments<T>&, const ForwardTask&, void*);
DELTACONV_INSTANTIATE(float)
DELTACONV_INSTANTIATE(double)
DELTACONV_INSTANTIATE(Half)
DELTACONV_INSTANTIATE(BFloat16)

}  // namespace deltaconv::cpu::DELTACONV_ISA

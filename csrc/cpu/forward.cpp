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
template <class T, bool Full, bool WithResidual, bool Streams>
struct ResultRow {
  using A = Accumulator<T>;

  T* out;
  const T* residual;
  int64_t col_stride, residual_col_stride, row_stride;
  int lanes;

  DELTACONV_INLINE void put(int64_t x, Vector<A> value) const {
    T* to = out + x * col_stride;
    if constexpr (WithResidual) value += load<Full>(residual + x * residual_col_stride, lanes);
    if constexpr (Streams) {
      stream(to, value);
    } else {
      prefetch(to + row_stride);
      store<Full>(to, value, lanes);
    }
  }
};

// The forward pass of one task: all stages of a rectangle of the result advance together, so that x is read
// from memory once.
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
  template <Gate gate>
  void gate_row(const ForwardStage<T>& stage, int64_t first, int64_t i, int64_t vector) const;
  void upsample_row(const ForwardStage<T>& stage, int64_t y, int64_t vector) const;
  template <class Visit>
  void with_result_row(const Convolution<T>& convolution, int64_t y, int64_t vector, const Visit& visit) const;
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
  convolution.block = channel_block_of<A>(problem.sizes, task.channel_block);
  convolution.rows = full ? task.rows : inputs_of(plan.upsample_rows, task.rows);
  convolution.cols = full ? task.cols : inputs_of(plan.upsample_cols, task.cols);
  convolution.plan_memory(arena);
  const int64_t cols = full ? 0 : length(convolution.cols);
  stage.next = convolution.rows.begin;
  stage.gated = take_ring<A>(arena, full ? 1 : plan.upsample_rows.pitch + kRows - 1, convolution.block.vectors, cols);
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

// Computes the next rows of the gated convolution; at full resolution they are rows of the result.
template <class T>
template <Gate gate>
void Forward<T>::compute_gated(ForwardStage<T>& stage) {
  Convolution<T>& convolution = stage.convolution;
  const int64_t first = stage.next, count = smaller(kRows, convolution.rows.end - first);
  convolution.convolve_rows(first, count);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t vector = 0; vector < convolution.block.vectors; ++vector) gate_row<gate>(stage, first, i, vector);
  }
  stage.next += count;
}

template <class T>
template <Gate gate>
DELTACONV_NOINLINE void Forward<T>::gate_row(const ForwardStage<T>& stage, int64_t first, int64_t i,
                                             int64_t vector) const {
  const Convolution<T>& convolution = stage.convolution;
  const A* u = convolution.activation(i, vector);
  const A* v = convolution.activation(i, vector + convolution.block.vectors);
  const A scale = arguments.problem.gate_scale;
  const Span cols = convolution.cols;
  const auto gate_all = [=](const auto& put) {
    for (int64_t x = 0; x < length(cols); ++x) put(x, apply_gate<gate>(load(u + x * V), load(v + x * V), scale));
  };
  if (convolution.plan->factor == 1) {
    with_result_row(convolution, first + i, vector,
                    [&](auto row) { gate_all([=](int64_t x, Vector<A> value) { row.put(cols.begin + x, value); }); });
  } else {
    A* out = stage.gated.at(first + i, vector);
    gate_all([=](int64_t x, Vector<A> value) { store(out + x * V, value); });
  }
}

template <class T>
DELTACONV_NOINLINE void Forward<T>::upsample_row(const ForwardStage<T>& stage, int64_t y, int64_t vector) const {
  const Convolution<T>& convolution = stage.convolution;
  const StagePlan<A>& plan = *convolution.plan;
  const RingSource<A> source{stage.gated, vector, convolution.cols.begin};
  with_result_row(convolution, y, vector, [&](auto row) {
    const auto put = [=](int64_t x, Vector<A> value) { row.put(x, value); };
    if (plan.factor == 2 && plan.divides) {
      const Resample<A>& map = plan.upsample_rows;
      with_combined_rows(source, map.windows[y], map.weights + y * map.pitch,
                         [&](const auto& column) { upsample_twice<A>(column, convolution.cols, task.cols, put); });
    } else {
      resample_row(source, plan.upsample_rows, plan.upsample_cols, y, task.cols, stage.combined, put);
    }
  });
}

// Calls visit(row) with a row of the stage's slice of the result.
template <class T>
template <class Visit>
DELTACONV_INLINE void Forward<T>::with_result_row(const Convolution<T>& convolution, int64_t y, int64_t vector,
                                                  const Visit& visit) const {
  const Image<T>& result = arguments.result;
  const Image<const T>& residual = arguments.residual;
  const ChannelBlock<A>& block = convolution.block;
  const int64_t channel = convolution.stage * (arguments.problem.sizes.C / 2) + block.slice_channel(vector);
  T* out = result.data + task.image * result.batch_stride + y * result.row_stride + channel;
  const T* add = nullptr;
  if (residual.data) {
    add = residual.data + task.image * residual.batch_stride + y * residual.row_stride + channel;
  }
  const int lanes = block.lanes(vector);
  const auto visit_row = [&]<bool Full, bool Streams>() {
    if (add) {
      visit(ResultRow<T, Full, true, Streams>{out, add, result.col_stride, residual.col_stride, result.row_stride,
                                              lanes});
    } else {
      visit(ResultRow<T, Full, false, Streams>{out, nullptr, result.col_stride, 0, result.row_stride, lanes});
    }
  };
  const uint64_t address = reinterpret_cast<uintptr_t>(out), pitch = result.col_stride * sizeof(T);
  with_lanes<A>(lanes, [&]<bool Full>() {
    if constexpr (Full && kStreams<T>) {
      if (arguments.streams && (address | pitch) % 64 == 0) return visit_row.template operator()<true, true>();
    }
    visit_row.template operator()<Full, false>();
  });
}

}  // namespace

template <class T>
int64_t forward_scratch(const ForwardArguments<T>& arguments, const ForwardTask& task) {
  Arena arena{0};
  Forward<T>(arguments, task, arena, true);
  return static_cast<int64_t>(arena.cursor);
}

template <class T>
int64_t convolution_tile(const Problem<T>& problem) {
  return scheme_of(problem).tile;
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
  template int64_t convolution_tile<T>(const Problem<T>&);                             \
  template int64_t forward_scratch<T>(const ForwardArguments<T>&, const ForwardTask&); \
  template void forward<T>(const ForwardArguments<T>&, const ForwardTask&, void*);
DELTACONV_INSTANTIATE(float)
DELTACONV_INSTANTIATE(PreciseFloat)
DELTACONV_INSTANTIATE(double)
DELTACONV_INSTANTIATE(Half)
DELTACONV_INSTANTIATE(BFloat16)

}  // namespace deltaconv::cpu::DELTACONV_ISA

#include "cpu/backward_stage.h"
#include "cpu/kernels.h"

namespace deltaconv::cpu::DELTACONV_ISA {
namespace {

// The backward pass of one task: all stages of a part of grad_x advance together.
template <class T>
struct Backward {
  using A = Accumulator<T>;
  static constexpr int V = kLanes<A>;

  const BackwardArguments<T>& arguments;
  const BackwardTask& task;
  BackwardStage<T>* stages;
  Span rows, cols;         // part of the image that the task computes
  A *combined, *finished;  // rows of grad_x

  Backward(const BackwardArguments<T>& arguments, const BackwardTask& task, Arena& arena, bool measure_only);

  template <Gate gate>
  void run();
  void write_grad_x(int64_t y, int64_t plane) const;
};

template <class T>
Backward<T>::Backward(const BackwardArguments<T>& arguments, const BackwardTask& task, Arena& arena, bool measure_only)
    : arguments(arguments), task(task) {
  const Sizes& sizes = arguments.problem.sizes;
  const Partition& partition = arguments.partition;
  rows = share(task.strips, partition.strips, sizes.H);
  cols = share({task.panel, task.panel + 1}, partition.panels, sizes.W);
  stages = arena.take<BackwardStage<T>>(sizes.S);
  int64_t widest = 0;
  for (int64_t s = 0; s < sizes.S; ++s) {
    BackwardStage<T> stage;
    stage.arguments = &arguments;
    stage.plan_memory(task, s, rows, cols, arena);
    if (!measure_only) stages[s] = stage;
    widest = larger(widest, length(stage.pooled_cols));
  }
  combined = arena.take<A>(widest * V);
  finished = arena.take<A>(length(cols) * V);
}

template <class T>
template <Gate gate>
void Backward<T>::run() {
  const int64_t S = arguments.problem.sizes.S;
  for (int64_t s = 0; s < S; ++s) stages[s].start();
  for (int64_t y = rows.begin; arguments.grad_x && y < rows.end; ++y) {
    for (int64_t s = 0; s < S; ++s) {
      BackwardStage<T>& stage = stages[s];
      const StagePlan<A>& plan = stage.plan();
      const int64_t end = plan.factor == 1 ? y + 1 : inputs_of(plan.pool_adjoint_rows, {y, y + 1}).end;
      while (stage.next_pooled < end) stage.template compute_pooled<gate>();
    }
    for (int64_t plane = 0; plane < channel_block_of<A>(arguments.problem.sizes, task.channel_block).planes();
         ++plane) {
      write_grad_x(y, plane);
    }
  }
  for (int64_t s = 0; s < S; ++s) {
    while (stages[s].next_slope < stages[s].convolution.rows.end) stages[s].template compute_slope<gate>();
  }
}

// Computes rows of grad_x: the pooling's adjoint, summed over the stages and rounded once.
template <class T>
DELTACONV_NOINLINE void Backward<T>::write_grad_x(int64_t y, int64_t plane) const {
  const Sizes& sizes = arguments.problem.sizes;
  const ChannelBlock<A> block = channel_block_of<A>(sizes, task.channel_block);
  A* sum = finished - cols.begin * V;
  for (int64_t s = 0; s < sizes.S; ++s) {
    const BackwardStage<T>& stage = stages[s];
    const StagePlan<A>& plan = stage.plan();
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
  const Span range = cols;
  const int lanes = block.lanes(plane);
  const bool streams = arguments.streams && (reinterpret_cast<uintptr_t>(out) | uint64_t(C) * sizeof(T)) % 64 == 0;
  with_lanes<A>(lanes, [=]<bool Full>() {
    if constexpr (Full && kStreams<T>) {
      if (streams) {
        for (int64_t x = range.begin; x < range.end; ++x) stream(out + x * C, load(sum + x * V));
        return;
      }
    }
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
void reduce(const Accumulator<T>* partials, int64_t count, int64_t stride, Span range, T* out) {
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
  template void reduce<T>(const Accumulator<T>*, int64_t, int64_t, Span, T*);
DELTACONV_INSTANTIATE(float)
DELTACONV_INSTANTIATE(PreciseFloat)
DELTACONV_INSTANTIATE(double)
DELTACONV_INSTANTIATE(Half)
DELTACONV_INSTANTIATE(BFloat16)

}  // namespace deltaconv::cpu::DELTACONV_ISA

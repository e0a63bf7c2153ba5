#include "cpu/kernels.h"

#include "cpu/convolution.h"
#include "cpu/gate.h"

namespace deltaconv::cpu::DELTACONV_ISA {
namespace {

// Everything one task keeps in scratch memory.
template <class T>
struct ForwardStage {
  using A = Accumulator<T>;

  Convolution<T> convolution;
  A* activations;  // one convolved row: [planes][cols + kColumnSlack] vectors
  Ring<A> gated;   // rows of the gated convolution, columns convolution.cols
  A *combined, *upsampled;
};

template <class T>
ForwardStage<T> plan_stage(const ForwardArguments<T>& arguments, const ForwardTask& task, Arena& arena) {
  using A = Accumulator<T>;
  const Problem<T>& problem = arguments.problem;
  const StagePlan<A>& plan = problem.stages[task.stage];
  const bool full = plan.factor == 1;
  ForwardStage<T> stage;
  Convolution<T>& convolution = stage.convolution;
  convolution.problem = &problem;
  convolution.plan = &plan;
  convolution.image = task.image;
  convolution.stage = task.stage;
  convolution.block = block_of<A>(problem.sizes, task.block);
  convolution.rows = full ? task.rows : inputs_of(plan.upsample_rows, task.rows);
  convolution.cols = full ? task.cols : inputs_of(plan.upsample_cols, task.cols);
  convolution.plan_memory(arena);
  const int64_t cols = length(convolution.cols), vectors = convolution.block.vectors;
  stage.activations = arena.take<A>(2 * vectors * (cols + kColumnSlack) * kLanes<A>);
  stage.gated = take_ring<A>(arena, full ? 1 : plan.upsample_rows.pitch, vectors, cols);
  stage.combined = arena.take<A>(full ? 0 : cols * kLanes<A>);
  stage.upsampled = arena.take<A>(full ? 0 : length(task.cols) * kLanes<A>);
  return stage;
}

template <Gate gate, class T>
void gate_row(const ForwardStage<T>& stage, int64_t r) {
  using A = Accumulator<T>;
  constexpr int V = kLanes<A>;
  const Convolution<T>& convolution = stage.convolution;
  const int64_t cols = length(convolution.cols), pitch = (cols + kColumnSlack) * V;
  const A scale = convolution.problem->gate_scale;
  for (int64_t i = 0; i < convolution.block.vectors; ++i) {
    const A* u = stage.activations + i * pitch;
    const A* v = u + convolution.block.vectors * pitch;
    A* out = stage.gated.at(r, i);
    for (int64_t x = 0; x < cols; ++x)
      store(out + x * V, apply_gate<gate>(load(u + x * V), load(v + x * V), scale));
  }
}

// Adds the residual to a finished row and writes it into the stage's slice of the result.
template <class T>
void write_row(const ForwardArguments<T>& arguments, const ForwardTask& task, int64_t channel, int lanes,
               int64_t y, const Accumulator<T>* row) {
  using A = Accumulator<T>;
  const Image<T>& result = arguments.result;
  const Image<const T>& residual = arguments.residual;
  channel += task.stage * (arguments.problem.sizes.C / 2);
  T* out = result.data + task.image * result.batch_stride + y * result.row_stride + channel;
  if (residual.data) {
    const T* add = residual.data + task.image * residual.batch_stride + y * residual.row_stride + channel;
    for (int64_t x = task.cols.begin; x < task.cols.end; ++x, row += kLanes<A>) {
      store(out + x * result.col_stride, load(row) + load(add + x * residual.col_stride, lanes), lanes);
    }
  } else {
    for (int64_t x = task.cols.begin; x < task.cols.end; ++x, row += kLanes<A>) {
      store(out + x * result.col_stride, load(row), lanes);
    }
  }
}

template <Gate gate, class T>
void pyramid_forward_kernel(const ForwardArguments<T>& arguments, const ForwardTask& task,
                            ForwardStage<T>& stage) {
  using A = Accumulator<T>;
  Convolution<T>& convolution = stage.convolution;
  const StagePlan<A>& plan = *convolution.plan;
  convolution.start();
  int64_t next = convolution.rows.begin;
  for (int64_t y = task.rows.begin; y < task.rows.end; ++y) {
    const int64_t last = plan.factor == 1 ? y : inputs_of(plan.upsample_rows, {y, y + 1}).end - 1;
    for (; next <= last; ++next) {
      convolution.row(next, stage.activations);
      gate_row<gate>(stage, next);
    }
    for (int64_t i = 0; i < convolution.block.vectors; ++i) {
      const A* row = stage.gated.at(y, i);
      if (plan.factor != 1) {
        const RingSource<A> source{stage.gated, i, convolution.cols.begin};
        resample_row(source, plan.upsample_rows, plan.upsample_cols, y, task.cols, stage.combined,
                     stage.upsampled);
        row = stage.upsampled;
      }
      write_row(arguments, task, convolution.block.slice_channel(i), convolution.block.lanes(i), y, row);
    }
  }
}

}  // namespace

template <class T>
int64_t forward_scratch(const ForwardArguments<T>& arguments, const ForwardTask& task) {
  Arena arena{0};
  plan_stage(arguments, task, arena);
  return static_cast<int64_t>(arena.cursor);
}

template <class T>
void forward(const ForwardArguments<T>& arguments, const ForwardTask& task, void* scratch) {
  Arena arena{reinterpret_cast<uintptr_t>(scratch)};
  ForwardStage<T> stage = plan_stage(arguments, task, arena);
  if (arguments.problem.gate == Gate::kScaled) {
    pyramid_forward_kernel<Gate::kScaled>(arguments, task, stage);
  } else {
    pyramid_forward_kernel<Gate::kSigmoid>(arguments, task, stage);
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

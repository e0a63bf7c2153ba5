#include "cpu/forward_op.h"

#include <torch/csrc/stable/library.h>

#include "cpu/memory.h"
#include "cpu/schedule.h"
#include "cpu/tensors.h"

namespace deltaconv::cpu {
namespace {

// The tasks: rectangles of the result, enough of them that no thread waits long at the end.
std::vector<ForwardTask> split(const Sizes& sizes, int64_t threads) {
  constexpr int64_t kTasksPerThread = 4, kMinRows = 8;
  const int64_t blocks = ceil_div(sizes.C / 2, kChannelBlock);
  const int64_t panels = ceil_div(sizes.W, panel_width(sizes.K));
  const int64_t wanted = threads == 1 ? 1 : ceil_div(kTasksPerThread * threads, sizes.B * blocks * panels);
  const int64_t strips = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(sizes.H / kMinRows, 1));
  std::vector<ForwardTask> tasks;
  for (int64_t image = 0; image < sizes.B; ++image) {
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t part = 0; part < strips * panels; ++part) {
        const int64_t strip = part / panels, panel = part % panels;
        tasks.push_back({image,
                         block,
                         {strip * sizes.H / strips, (strip + 1) * sizes.H / strips},
                         {panel * sizes.W / panels, (panel + 1) * sizes.W / panels}});
      }
    }
  }
  return tasks;
}

template <class T>
void launch(const Kernels<T>& kernels, const Inputs& inputs, const std::optional<Tensor>& residual,
            const Tensor& result) {
  const Sizes& sizes = inputs.sizes;
  const StagePlans<Accumulator<T>> stages(sizes, inputs.factors, false);
  const ForwardArguments<T> arguments{problem_of<T>(inputs, stages),
                                      residual ? image_of<const T>(*residual) : Image<const T>{nullptr, 0, 0, 0},
                                      image_of<T>(result), streams_past_caches(result)};
  const int64_t threads = useful_threads(sizes.B * sizes.H * sizes.W * sizes.C * (sizes.K * sizes.K + 8));
  const std::vector<ForwardTask> tasks = split(sizes, threads);
  int64_t scratch_bytes = 0;
  for (const ForwardTask& task : tasks) {
    scratch_bytes = std::max(scratch_bytes, kernels.forward_scratch(arguments, task));
  }
  run_tasks(tasks, threads, scratch_bytes,
            [&](const ForwardTask& task, void* scratch) { kernels.forward(arguments, task, scratch); });
}

}  // namespace

Tensor pyramid_cpu(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   std::vector<int64_t> factors, int64_t gate, double gate_scale,
                   const std::optional<Tensor>& residual) {
  const Inputs inputs(x, weight, bias, std::move(factors), gate, gate_scale);
  const Sizes& sizes = inputs.sizes;
  const int64_t channels = sizes.S * (sizes.C / 2);
  std::optional<Tensor> dense_residual;
  if (residual) {
    check_image("residual", *residual, inputs, channels);
    dense_residual = with_dense_channels(*residual);
  }
  const Tensor result = new_result(inputs.x, {sizes.B, sizes.H, sizes.W, channels});
  if (inputs.empty()) return result;
  dispatch(inputs, [&](const auto& kernels) { launch(kernels, inputs, dense_residual, result); });
  return result;
}

namespace {

std::string cpu_isa() { return instruction_set().name; }

// Outputs and taps of the fast convolution in float32 with the scaled gate: m in tiles.h.
int64_t cpu_convolution_tile(int64_t kernel_size) {
  Problem<float> problem{};
  problem.sizes.K = kernel_size;
  return instruction_set().float32.convolution_tile(problem);
}

}  // namespace
}  // namespace deltaconv::cpu

STABLE_TORCH_LIBRARY_IMPL(DELTACONV_NAMESPACE, CPU, library) {
  library.impl("pyramid_cpu", TORCH_BOX(&deltaconv::cpu::pyramid_cpu));
}

STABLE_TORCH_LIBRARY_IMPL(DELTACONV_NAMESPACE, CompositeExplicitAutograd, library) {
  library.impl("cpu_isa", TORCH_BOX(&deltaconv::cpu::cpu_isa));
  library.impl("cpu_convolution_tile", TORCH_BOX(&deltaconv::cpu::cpu_convolution_tile));
}

#include <torch/csrc/stable/library.h>

#include "cpu/memory.h"
#include "cpu/schedule.h"
#include "cpu/tensors.h"

namespace deltaconv::cpu {
namespace {

// Cuts the image by the problem's sizes alone, so that the weight gradient has the same bits for any number of threads.
template <class A>
Partition partition_of(const Sizes& sizes, const StagePlans<A>& stages) {
  constexpr int64_t kPixels = 512, kMinRows = 2, kMaxTasks = 256;
  int64_t smallest_h = sizes.H, smallest_w = sizes.W;
  for (int64_t s = 0; s < sizes.S; ++s) {
    smallest_h = std::min(smallest_h, stages[s].h);
    smallest_w = std::min(smallest_w, stages[s].w);
  }
  const int64_t panels = std::min(ceil_div(sizes.W, panel_width(sizes.K)), smallest_w);
  const int64_t wanted = sizes.H * sizes.W / panels / kPixels;
  const int64_t strips = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(smallest_h / kMinRows, 1));
  const int64_t groups = ceil_div(kMaxTasks, sizes.B * ceil_div(sizes.C / 2, kChannelBlock) * panels);
  return {strips, panels, std::min(groups, strips)};
}

// The tasks: parts of grad_x. A part's halo is computed twice, so that the groups of strips are joined into no more
// tasks than keep the threads busy.
std::vector<BackwardTask> split(const Sizes& sizes, const Partition& partition, int64_t threads) {
  constexpr int64_t kTasksPerThread = 4;
  const int64_t blocks = ceil_div(sizes.C / 2, kChannelBlock);
  const int64_t wanted = threads == 1 ? 1 : ceil_div(kTasksPerThread * threads, sizes.B * blocks * partition.panels);
  const int64_t parts = std::min(wanted, partition.groups);
  const auto first_strip = [&](int64_t part) {
    return part * partition.groups / parts * partition.strips / partition.groups;
  };
  std::vector<BackwardTask> tasks;
  for (int64_t image = 0; image < sizes.B; ++image) {
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t panel = 0; panel < partition.panels; ++panel) {
        for (int64_t part = 0; part < parts; ++part) {
          tasks.push_back({image, block, panel, {first_strip(part), first_strip(part + 1)}});
        }
      }
    }
  }
  return tasks;
}

struct Gradients {
  Tensor x, weight, bias;  // shape [0] where not wanted
};

// Adds up the partial weight gradients of the parts, in their order.
template <class T>
void reduce_partials(const Kernels<T>& kernels, const Inputs& inputs, const Accumulator<T>* partials, int64_t parts,
                     const Gradients& gradients) {
  const Sizes& sizes = inputs.sizes;
  const int64_t K2 = sizes.K * sizes.K, row = sizes.C, stage = (K2 + 1) * row;
  const bool weight = gradients.weight.numel() > 0, bias = gradients.bias.numel() > 0;
  torch::stable::parallel_for(0, sizes.S * (K2 + 1), 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t s = i / (K2 + 1), tap = i % (K2 + 1);
      const Accumulator<T>* from = partials + s * stage + tap * row;
      if (tap < K2 && weight) {
        T* out = static_cast<T*>(gradients.weight.mutable_data_ptr()) + (s * K2 + tap) * row;
        kernels.reduce(from, parts, sizes.S * stage, {0, row}, out);
      } else if (tap == K2 && bias) {
        T* out = static_cast<T*>(gradients.bias.mutable_data_ptr()) + s * row;
        kernels.reduce(from, parts, sizes.S * stage, {0, row}, out);
      }
    }
  });
}

template <class T>
void launch(const Kernels<T>& kernels, const Inputs& inputs, const Tensor& grad, const Gradients& gradients) {
  const Sizes& sizes = inputs.sizes;
  const StagePlans<Accumulator<T>> stages(sizes, inputs.factors, true);
  const Partition partition = partition_of(sizes, stages);
  const int64_t parts = sizes.B * partition.groups * partition.panels;
  const bool sums = gradients.weight.numel() > 0 || gradients.bias.numel() > 0;
  const auto partials = new_array<Accumulator<T>>(sums ? parts * sizes.S * (sizes.K * sizes.K + 1) * sizes.C : 0);
  const BackwardArguments<T> arguments{
      problem_of<T>(inputs, stages),
      image_of<const T>(grad),
      partition,
      gradients.x.numel() > 0 ? static_cast<T*>(gradients.x.mutable_data_ptr()) : nullptr,
      sums ? partials.get() : nullptr,
      streams_past_caches(gradients.x)};
  const int64_t threads = useful_threads(sizes.B * sizes.H * sizes.W * sizes.C * (3 * sizes.K * sizes.K + 16));
  const std::vector<BackwardTask> tasks = split(sizes, partition, threads);
  int64_t scratch_bytes = 0;
  for (const BackwardTask& task : tasks) {
    scratch_bytes = std::max(scratch_bytes, kernels.backward_scratch(arguments, task));
  }
  run_tasks(tasks, threads, scratch_bytes,
            [&](const BackwardTask& task, void* scratch) { kernels.backward(arguments, task, scratch); });
  if (sums) reduce_partials(kernels, inputs, partials.get(), parts, gradients);
}

std::tuple<Tensor, Tensor, Tensor> pyramid_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                        const std::optional<Tensor>& bias, std::vector<int64_t> factors,
                                                        int64_t gate, double gate_scale,
                                                        std::vector<bool> output_mask) {
  const Inputs inputs(x, weight, bias, std::move(factors), gate, gate_scale);
  const Sizes& sizes = inputs.sizes;
  check_image("grad", grad, inputs, sizes.S * (sizes.C / 2));
  STD_TORCH_CHECK(output_mask.size() == 3, "output_mask: expected 3 entries, got ", output_mask.size());
  const auto wanted = [&](bool is, const Tensor& like) {
    return is ? new_result(inputs.x, like.sizes()) : new_result(inputs.x, {0});
  };
  const Gradients gradients{wanted(output_mask[0], inputs.x), wanted(output_mask[1], inputs.weight),
                            wanted(output_mask[2] && bias, bias ? *inputs.bias : inputs.x)};
  if (inputs.empty()) {
    for (Tensor gradient : {gradients.weight, gradients.bias}) torch::stable::zero_(gradient);
  } else {
    const Tensor dense_grad = with_dense_channels(grad);
    dispatch(inputs, [&](const auto& kernels) { launch(kernels, inputs, dense_grad, gradients); });
  }
  return {gradients.x, gradients.weight, gradients.bias};
}

}  // namespace
}  // namespace deltaconv::cpu

STABLE_TORCH_LIBRARY_IMPL(DELTACONV_NAMESPACE, CPU, library) {
  library.impl("pyramid_backward_cpu", TORCH_BOX(&deltaconv::cpu::pyramid_backward_cpu));
}

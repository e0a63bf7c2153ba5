// The plan of the backward pass.
#include <algorithm>
#include <optional>
#include <stdexcept>

#include "cuda/layout/backward_workspace.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda {
namespace {

// The whole of an axis as a grid of its own, whose values are not pooled when they are read.
Axis plain(int32_t size) { return {size, size, 1}; }

Stage plain_stage(int32_t index, int32_t rows, int32_t cols) { return {index, plain(rows), plain(cols), {}}; }

// The grid of x itself.
Stage whole_stage(const PlanProblem& problem, int32_t index) {
  return plain_stage(index, static_cast<int32_t>(problem.sizes.H), static_cast<int32_t>(problem.sizes.W));
}

// Floats that a stage's gradients take. On tensor cores two values take the space of one float.
int64_t gradient_floats(const PlanProblem& problem, const Stage& stage, Path path) {
  const Sizes& sizes = problem.sizes;
  if (path == Path::kCudaCores) return sizes.B * stage.rows.reduced * stage.cols.reduced * sizes.C;
  return (sizes.B * sizes.C * tensor_cores::GradientGrid(stage.rows, stage.cols, sizes).plane_elements() + 1) / 2;
}

Workspace workspace_of(const PlanProblem& problem, const BackwardPlan& plan) {
  const Sizes& sizes = problem.sizes;
  Workspace workspace{};
  const auto take = [&](int64_t floats) {
    const int64_t at = workspace.size;
    workspace.size += (floats + 31) / 32 * 32;  // parts begin at multiples of 128 bytes
    return at;
  };
  const Stages& stages = plan.gate.stages;
  for (int32_t s = 0; s < stages.count; ++s) {
    const Stage& stage = stages.at[s];
    workspace.grad_a[stage.index] = take(gradient_floats(problem, stage, plan.gate.path));
    if (plan.gate.path == Path::kTensorCores) {
      const tensor_cores::GradientGrid grid(stage.rows, stage.cols, sizes);
      const bool scaled = problem.type == ElementType::kFloat16;
      workspace.scales[stage.index] = take(scaled ? sizes.B * sizes.C * grid.plane_cells() : 0);
      workspace.inputs[stage.index] = take(gradient_floats(problem, stage, plan.gate.path));
    }
  }
  for (int32_t s = 0; s < plan.reduced.stages.count; ++s) {
    const Stage& stage = plan.reduced.stages.at[s];
    workspace.grad_d[stage.index] = take(sizes.B * stage.rows.reduced * stage.cols.reduced * sizes.C);
  }
  workspace.partials = take(plan.weight.partitions * sizes.S * (sizes.K * sizes.K + 1) * sizes.C);
  return workspace;
}

BackwardPlan cuda_cores_plan(const PlanProblem& problem, const DeviceProperties& device,
                             const std::vector<Stage>& stages) {
  std::vector<Stage> reduced;
  for (const Stage& stage : stages) {
    if (stage.rows.factor != 1) reduced.push_back(plain_stage(stage.index, stage.rows.reduced, stage.cols.reduced));
  }
  // The adjoint convolutions read float32 gradients, whatever the storage type.
  const PlanProblem of_gradients{problem.sizes, problem.factors, ElementType::kFloat32};
  return {cuda_cores::convolution_launch(problem, device, stages, false),
          cuda_cores::convolution_launch(of_gradients, device, reduced, false),
          cuda_cores::convolution_launch(of_gradients, device, {whole_stage(problem, 0)}, false),
          cuda_cores::weight_launch(problem, device),
          {}};
}

// Returns nothing where no tile of one of the launches fits the device's shared memory.
std::optional<BackwardPlan> tensor_cores_plan(const PlanProblem& problem, const DeviceProperties& device,
                                              const std::vector<Stage>& stages) {
  if (problem.type == ElementType::kFloat32) return std::nullopt;
  int32_t direct = -1;  // the stage that is convolved on x's own grid
  std::vector<Stage> others;
  for (const Stage& stage : stages) {
    if (direct < 0 && stage.rows.factor == 1) {
      direct = stage.index;
    } else {
      others.push_back(plain_stage(stage.index, stage.rows.reduced, stage.cols.reduced));
    }
  }
  const auto gate = tensor_cores::gate_launch(problem, device, stages);
  const auto reduced = tensor_cores::adjoint_launch(problem, device, others, {4, 0});
  const auto input = tensor_cores::adjoint_launch(problem, device, {whole_stage(problem, direct)},
                                                  {2, static_cast<double>(others.size())});
  const auto weight = tensor_cores::weight_launch(problem, device);
  if (!gate || !reduced || !input || !weight) return std::nullopt;
  return BackwardPlan{*gate, *reduced, *input, *weight, {}};
}

}  // namespace

BackwardPlan backward_plan(const PlanProblem& problem, const DeviceProperties& device) {
  const auto count = static_cast<int32_t>(problem.factors.size());
  if (count > kMaxStages) {
    throw std::runtime_error("factors: the cuda backend differentiates up to " + std::to_string(kMaxStages) +
                             " stages, got " + std::to_string(count));
  }
  std::vector<Stage> stages;
  for (int32_t s = 0; s < count; ++s) stages.push_back(untiled_stage(problem, s));
  std::optional<BackwardPlan> on_tensor_cores;
  if (problem.path != Path::kCudaCores) on_tensor_cores = tensor_cores_plan(problem, device, stages);
  if (problem.path == Path::kTensorCores && !on_tensor_cores) fail_to_plan(problem, device);
  BackwardPlan plan = on_tensor_cores ? *on_tensor_cores : cuda_cores_plan(problem, device, stages);
  plan.workspace = workspace_of(problem, plan);
  for (const Grid& grid : {plan.gate.grid, plan.reduced.grid, plan.input.grid, plan.weight.grid}) check_grid(grid);
  return plan;
}

}  // namespace deltaconv::cuda

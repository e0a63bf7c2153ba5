// The plan of the backward pass.
#include <algorithm>
#include <optional>
#include <stdexcept>

#include "cuda/layout/backward_workspace.h"
#include "cuda/layout/register_tile.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda {
namespace {

constexpr int32_t kMaxPartitions = 64, kBlocksWanted = 512;  // by the shape alone, so that bits repeat

// The whole of an axis as a grid of its own: what is read there is not pooled.
Axis plain(int32_t size) { return {size, size, 1}; }

Stage plain_stage(int32_t index, int32_t rows, int32_t cols) { return {index, plain(rows), plain(cols), {}}; }

// x's own grid.
Stage whole_stage(const PlanProblem& problem, int32_t index) {
  return plain_stage(index, static_cast<int32_t>(problem.sizes.H), static_cast<int32_t>(problem.sizes.W));
}

Tiling weight_tiling(const Stage& stage, int32_t K, int32_t kernel_rows, int64_t limit) {
  for (int32_t rows = std::min(16, stage.rows.reduced); rows > 0; rows /= 2) {
    for (int32_t cols = stage.cols.reduced > kTileW ? 2 * kTileW : kTileW; cols >= kTileW; cols /= 2) {
      const Tiling tiling = tile_stage(stage.rows, stage.cols, rows, cols, false);
      if (weight_floats(tiling, K, kernel_rows) * 4 <= limit) return tiling;
    }
  }
  return {};
}

WeightPlan weight_plan(const PlanProblem& problem, const DeviceProperties& device) {
  constexpr int32_t kWarps = kMaxThreads / kWarp;
  const auto K = static_cast<int32_t>(problem.sizes.K);
  const WeightTasks tasks(K);
  WeightPlan plan{};
  plan.tasks_per_block = std::min(kWarps, tasks.count());
  plan.slices = kWarps / plan.tasks_per_block;
  const int32_t chunks = (tasks.count() + plan.tasks_per_block - 1) / plan.tasks_per_block;
  int32_t kernel_rows = 0;
  for (int32_t chunk = 0; chunk < chunks; ++chunk) {
    const Span rows = task_rows(tasks, chunk * plan.tasks_per_block, plan.tasks_per_block);
    kernel_rows = std::max(kernel_rows, rows.end - rows.begin);
  }
  int64_t most_tiles = 0, floats = plan.slices > 1 ? slice_floats(plan.tasks_per_block, K) : 0;
  for (int32_t s = 0; s < static_cast<int32_t>(problem.factors.size()); ++s) {
    Stage stage = untiled_stage(problem, s);
    stage.tiling = weight_tiling(stage, K, kernel_rows, device.shared_per_block);
    if (stage.tiling.rows == 0) fail_to_plan(problem, device);
    floats = std::max(floats, weight_floats(stage.tiling, K, kernel_rows));
    most_tiles = std::max(most_tiles, stage.tiling.count() * problem.sizes.B);
    plan.stages.at[plan.stages.count++] = stage;
  }
  const int64_t channel_blocks = (problem.sizes.C / 2 + kPairs - 1) / kPairs;
  const int64_t wanted = std::clamp<int64_t>(kBlocksWanted / (channel_blocks * chunks), 1, kMaxPartitions);
  plan.partitions = static_cast<int32_t>(std::min(wanted, most_tiles));
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    plan.stage_partitions[s] =
        static_cast<int32_t>(std::min<int64_t>(plan.stages.at[s].tiling.count() * problem.sizes.B, plan.partitions));
  }
  plan.grid = {plan.stages.count * plan.partitions * chunks * channel_blocks,
               plan.tasks_per_block * plan.slices * kWarp, floats * 4};
  return plan;
}

// Of a stage's gradients: on tensor cores two values take a float's space.
int64_t gradient_floats(const PlanProblem& problem, const Stage& stage, Road road) {
  const Sizes& sizes = problem.sizes;
  if (road == Road::kCudaCores) return sizes.B * stage.rows.reduced * stage.cols.reduced * sizes.C;
  return (sizes.B * sizes.C * GradientGrid(stage.rows, stage.cols, sizes).plane_elements() + 1) / 2;
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
    workspace.grad_a[stage.index] = take(gradient_floats(problem, stage, plan.gate.road));
    if (plan.gate.road == Road::kTensorCores) {
      const GradientGrid grid(stage.rows, stage.cols, sizes);
      const bool scaled = problem.type == ElementType::kFloat16;
      workspace.scales[stage.index] = take(scaled ? sizes.B * sizes.C * grid.plane_cells() : 0);
      workspace.inputs[stage.index] = take(gradient_floats(problem, stage, plan.gate.road));
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
  return {cuda_cores_launch(problem, device, stages, false),
          cuda_cores_launch(of_gradients, device, reduced, false),
          cuda_cores_launch(of_gradients, device, {whole_stage(problem, 0)}, false),
          weight_plan(problem, device),
          {}};
}

// None where no tile of one of the launches fits the device's shared memory.
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
  const auto gate = tensor_cores_gate(problem, device, stages);
  const auto reduced = tensor_cores_adjoint(problem, device, others, {4, 0});
  const auto input =
      tensor_cores_adjoint(problem, device, {whole_stage(problem, direct)}, {2, static_cast<double>(others.size())});
  const auto weight = tensor_cores_weight(problem, device);
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
  if (problem.road != Road::kCudaCores) on_tensor_cores = tensor_cores_plan(problem, device, stages);
  if (problem.road == Road::kTensorCores && !on_tensor_cores) fail_to_plan(problem, device);
  BackwardPlan plan = on_tensor_cores ? *on_tensor_cores : cuda_cores_plan(problem, device, stages);
  plan.workspace = workspace_of(problem, plan);
  for (const Grid& grid : {plan.gate.grid, plan.reduced.grid, plan.input.grid, plan.weight.grid}) check_grid(grid);
  return plan;
}

}  // namespace deltaconv::cuda

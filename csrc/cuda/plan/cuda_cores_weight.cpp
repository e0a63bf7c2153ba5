// The plan of the weight gradient on CUDA cores. Tiles and partitions follow from the shape and the shared memory of a
// CTA alone, so that sums are the same on many GPUs.
#include <algorithm>

#include "cuda/layout/register_tile.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda::cuda_cores {
namespace {

constexpr int32_t kMaxPartitions = 64, kCtasWanted = 512;

// The largest tile whose gradients and inputs fit into `limit` bytes; empty if none does.
Tiling weight_tiling(const Stage& stage, int32_t K, int32_t kernel_rows, int64_t limit) {
  for (int32_t rows = std::min(16, stage.rows.reduced); rows > 0; rows /= 2) {
    for (int32_t cols = stage.cols.reduced > kTileW ? 2 * kTileW : kTileW; cols >= kTileW; cols /= 2) {
      const Tiling tiling = tile_stage(stage.rows, stage.cols, rows, cols, false);
      if (weight_floats(tiling, K, kernel_rows) * 4 <= limit) return tiling;
    }
  }
  return {};
}

}  // namespace

WeightPlan weight_launch(const PlanProblem& problem, const DeviceProperties& device) {
  constexpr int32_t kWarps = kMaxThreads / kWarp;
  const auto K = static_cast<int32_t>(problem.sizes.K);
  const WeightTasks tasks(K);
  WeightPlan plan{};
  plan.tasks_per_cta = std::min(kWarps, tasks.count());
  plan.slices = kWarps / plan.tasks_per_cta;
  const int32_t chunks = (tasks.count() + plan.tasks_per_cta - 1) / plan.tasks_per_cta;
  int32_t kernel_rows = 0;
  for (int32_t chunk = 0; chunk < chunks; ++chunk) {
    const Span rows = task_rows(tasks, chunk * plan.tasks_per_cta, plan.tasks_per_cta);
    kernel_rows = std::max(kernel_rows, rows.end - rows.begin);
  }
  int64_t most_tiles = 0, floats = plan.slices > 1 ? slice_floats(plan.tasks_per_cta, K) : 0;
  for (int32_t s = 0; s < static_cast<int32_t>(problem.factors.size()); ++s) {
    Stage stage = untiled_stage(problem, s);
    stage.tiling = weight_tiling(stage, K, kernel_rows, device.shared_per_block);
    if (stage.tiling.rows == 0) fail_to_plan(problem, device);
    floats = std::max(floats, weight_floats(stage.tiling, K, kernel_rows));
    most_tiles = std::max(most_tiles, stage.tiling.count() * problem.sizes.B);
    plan.stages.at[plan.stages.count++] = stage;
  }
  const int64_t channel_blocks = (problem.sizes.C / 2 + kPairs - 1) / kPairs;
  const int64_t wanted = std::clamp<int64_t>(kCtasWanted / (channel_blocks * chunks), 1, kMaxPartitions);
  plan.partitions = static_cast<int32_t>(std::min(wanted, most_tiles));
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    plan.stage_partitions[s] =
        static_cast<int32_t>(std::min<int64_t>(plan.stages.at[s].tiling.count() * problem.sizes.B, plan.partitions));
  }
  plan.grid = {plan.stages.count * plan.partitions * chunks * channel_blocks, plan.tasks_per_cta * plan.slices * kWarp,
               floats * 4};
  return plan;
}

}  // namespace deltaconv::cuda::cuda_cores

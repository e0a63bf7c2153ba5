// The plan for tensor cores: the tile and the block size that a simple cost model finds fastest.
#include <algorithm>
#include <optional>
#include <stdexcept>

#include "cuda/layout/banded_tile.h"
#include "cuda/plan/cost.h"

namespace deltaconv::cuda {
namespace {

template <class Banded>
BlockCost block_cost(const PlanProblem& problem, const Stage& stage, int32_t threads) {
  const auto K = static_cast<double>(problem.sizes.K), channels = 2.0 * kBandedPairs;
  const double products = K * Banded::kStep * Banded::kBlocks * Banded::kBand / 2.0;
  const double accesses = (K + 1) / 2 * (4 * Banded::kLoads + 2 * Banded::kBand);
  const double window = static_cast<double>(stage.rows.factor) * stage.cols.factor;
  // Zeros around the image are not read.
  const double rows = std::min(Banded::kRows + K - 1, static_cast<double>(stage.rows.reduced));
  const double cols = std::min(Banded::kCols + K - 1, static_cast<double>(stage.cols.reduced));
  const double written = Banded::kRows * Banded::kCols * window / 2;
  return {channels * std::max(products * kProductCycles, accesses * kSharedCycles),
          channels * 2 * (rows * cols * window + K * K), channels * 2 * written, threads == kBandedPairs * kWarp};
}

template <class Banded>
LaunchPlan candidate(const PlanProblem& problem, const DeviceProperties& device, int32_t first_stage, int32_t count,
                     int32_t threads) {
  LaunchPlan plan{Road::kTensorCores, {0, threads, 0}, kBandedPairs, {count, {}}, 0};
  const std::vector<Stage> stages = stages_of(problem, first_stage, count);
  for (int32_t s = 0; s < count; ++s) {
    Stage stage = stages[s];
    stage.tiling = tile_stage(stage.rows, stage.cols, Banded::kRows, Banded::kCols, stage.rows.factor != 1);
    plan.stages.at[s] = stage;
  }
  plan.grid.blocks = order_blocks(plan.stages, problem.sizes, kBandedPairs);
  plan.grid.shared_bytes = Banded::shared_bytes(static_cast<int>(problem.sizes.K));
  if (plan.grid.blocks > 0) {
    plan.estimated_cycles = launch_cycles(problem, device, plan, kBandedRegisters, [&](const Stage& stage) {
      return block_cost<Banded>(problem, stage, threads);
    });
  }
  return plan;
}

// Tiles whose shared memory the device has.
template <class Visit>
void for_each_fitting_tile(const PlanProblem& problem, const DeviceProperties& device, const Visit& visit) {
  for_each_banded_tile(problem.sizes.K, [&](auto banded) {
    if (banded.shared_bytes(static_cast<int>(problem.sizes.K)) <= device.shared_per_block) visit(banded);
  });
}

}  // namespace

bool tensor_cores_take(const PlanProblem& problem, const DeviceProperties& device) {
  bool takes = false;
  for_each_fitting_tile(problem, device, [&](auto) { takes = problem.type != ElementType::kFloat32; });
  return takes;
}

LaunchPlan tensor_cores_forward(const PlanProblem& problem, const DeviceProperties& device, int32_t first_stage,
                                int32_t count) {
  std::optional<LaunchPlan> best;
  for_each_fitting_tile(problem, device, [&](auto banded) {
    for (const int32_t threads : {256, kBandedThreads}) {
      const auto plan = candidate<decltype(banded)>(problem, device, first_stage, count, threads);
      if (!best || plan.estimated_cycles < best->estimated_cycles) best = plan;
    }
  });
  if (!best) throw std::logic_error("tensor_cores_forward: the tensor cores do not take this problem");
  return *best;
}

}  // namespace deltaconv::cuda

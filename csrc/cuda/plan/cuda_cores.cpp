// The plan for CUDA cores: the block size and the tiles that a simple cost model finds fastest.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "cuda/layout/register_tile.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda {
namespace {

// What the blocks of a stage ask of their multiprocessor, in cycles.
struct Cost {
  double issue = 0;    // instructions of all warps: four schedulers issue one each
  double traffic = 0;  // bytes from the L2
  double latency = 0;  // of loads and barriers, which only other blocks can fill
};

// Of a block: its convolution's; then the gated values that are upsampled, or their gradients and how the
// tile's rows and columns were.
int64_t shared_bytes(const Tiling& tiling, int32_t K) {
  const int64_t gated = static_cast<int64_t>(tiling.rows) * tiling.cols * kPairs * sizeof(float);
  const int64_t spans = static_cast<int64_t>(tiling.rows + tiling.cols) * sizeof(UpsampledSpan);
  return std::max(convolve_floats(tiling, K) * static_cast<int64_t>(sizeof(float)), gated + spans);
}

int64_t blocks_of(const PlanProblem& problem, const Stage& stage) {
  const int64_t channels = (problem.sizes.C / 2 + kPairs - 1) / kPairs;
  return stage.tiling.count() * problem.sizes.B * channels;
}

Cost stage_cost(const PlanProblem& problem, const Stage& stage) {
  constexpr double kSharedReadsPerFma = 0.22, kLoadInstructions = 12;
  constexpr double kSchedulers = 4, kBytesPerCycle = 32, kMemoryLatency = 900;
  const Tiling& tiling = stage.tiling;
  const double element = problem.type == ElementType::kFloat32 ? 4 : 2, K = static_cast<double>(problem.sizes.K);
  const double window = static_cast<double>(stage.rows.factor) * stage.cols.factor;
  const double bytes = ((tiling.rows + K - 1) * (tiling.cols + K - 1) * window + K * K) * kLanes * element;
  const double warps = tiling.rows / kTileH * (tiling.cols / kTileW);
  const double multiplies = warps * kTileH * kTileW * K * K;
  const double bands = std::ceil((tiling.rows + K - 1) / tiling.band_rows);
  const auto blocks = static_cast<double>(blocks_of(problem, stage));
  return {blocks * (multiplies * (1 + kSharedReadsPerFma) + bytes / 16 / kWarp * kLoadInstructions) / kSchedulers,
          blocks * bytes / kBytesPerCycle, blocks * kMemoryLatency * (1 + bands)};
}

// A multiprocessor's time for its share of the launch.
double launch_cycles(const PlanProblem& problem, const DeviceProperties& device, const LaunchPlan& plan) {
  constexpr double kWarpsThatFillIssue = 8;
  const int32_t threads = plan.grid.threads;
  const double resident = static_cast<double>(resident_blocks(device, threads, plan.grid.shared_bytes, kMaxRegisters));
  int64_t blocks = 0;  // of the grid's, those that have something to do
  for (int32_t s = 0; s < plan.stages.count; ++s) blocks += blocks_of(problem, plan.stages.at[s]);
  const double share = static_cast<double>(blocks) / device.multiprocessors;
  const double rounds = std::ceil(share) / share;  // the busiest multiprocessor's share against the mean's
  const double at_once = std::min(resident, std::ceil(share));
  const double unfilled = std::max(1.0, kWarpsThatFillIssue * kWarp / (at_once * threads));
  double cycles = 0;
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    const Cost cost = stage_cost(problem, plan.stages.at[s]);
    cycles += std::max(cost.issue * unfilled, cost.traffic) + cost.latency / at_once;
  }
  return cycles / device.multiprocessors * rounds;
}

// The stage cut for blocks of `warps` warps, the way that costs least; none where no way fits into shared
// memory.
std::optional<Stage> cut_stage(const PlanProblem& problem, const DeviceProperties& device, Stage stage, int32_t warps,
                               int32_t band_rows, bool upsampled) {
  const auto K = static_cast<int32_t>(problem.sizes.K);
  std::optional<Stage> best;
  double least = std::numeric_limits<double>::infinity();
  for (int32_t down = 1; down <= warps; down *= 2) {
    const int32_t rows = down * kTileH, cols = warps / down * kTileW;
    stage.tiling = tile_stage(stage.rows, stage.cols, rows, cols, upsampled && stage.rows.factor != 1);
    stage.tiling.band_rows = std::min(band_rows, rows + K - 1);
    if (shared_bytes(stage.tiling, K) > device.shared_per_block) continue;
    const Cost cost = stage_cost(problem, stage);
    if (std::max(cost.issue, cost.traffic) < least) {
      least = std::max(cost.issue, cost.traffic);
      best = stage;
    }
  }
  return best;
}

std::optional<LaunchPlan> candidate(const PlanProblem& problem, const DeviceProperties& device,
                                    const std::vector<Stage>& stages, bool upsampled, int32_t warps,
                                    int32_t band_rows) {
  const auto K = static_cast<int32_t>(problem.sizes.K);
  LaunchPlan plan{Road::kCudaCores, {0, warps * kWarp, 0}, kPairs, {0, {}}, 0};
  for (const Stage& untiled : stages) {
    const auto stage = cut_stage(problem, device, untiled, warps, band_rows, upsampled);
    if (!stage) return std::nullopt;
    plan.stages.at[plan.stages.count++] = *stage;
    plan.grid.shared_bytes = std::max(plan.grid.shared_bytes, shared_bytes(stage->tiling, K));
  }
  if (plan.stages.count > 0) plan.grid.blocks = order_blocks(plan.stages, problem.sizes, kPairs);
  if (plan.grid.blocks > 0) plan.estimated_cycles = launch_cycles(problem, device, plan);
  return plan;
}

}  // namespace

LaunchPlan cuda_cores_launch(const PlanProblem& problem, const DeviceProperties& device,
                             const std::vector<Stage>& stages, bool upsampled) {
  constexpr int32_t kWholeTile = std::numeric_limits<int32_t>::max();
  std::optional<LaunchPlan> best;
  for (const int32_t warps : {8, 4, 2, 1}) {
    for (const int32_t band_rows : {kWholeTile, 16, 8, 4}) {
      const auto plan = candidate(problem, device, stages, upsampled, warps, band_rows);
      if (plan && (!best || plan->estimated_cycles < best->estimated_cycles)) best = plan;
    }
  }
  if (!best) fail_to_plan(problem, device);
  return *best;
}

}  // namespace deltaconv::cuda

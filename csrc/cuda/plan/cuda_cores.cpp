// The plan for CUDA cores: the CTA size and the tiles that a simple cost model finds fastest.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "cuda/layout/register_tile.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda::cuda_cores {
namespace {

// Cycles that the CTAs of a stage ask of their multiprocessor.
struct Cost {
  double issue = 0;    // issuing the instructions of all warps; four schedulers issue one each
  double traffic = 0;  // reading bytes from the L2
  double latency = 0;  // waiting for loads and barriers, which only other CTAs can fill
};

// Shared memory of a CTA. The convolution uses it first; then the gated values that are upsampled, or their gradients
// together with where the tile's rows and columns went when they were upsampled.
int64_t shared_bytes(const Tiling& tiling, int32_t K) {
  const int64_t gated = static_cast<int64_t>(tiling.rows) * tiling.cols * kPairs * sizeof(float);
  const int64_t spans = static_cast<int64_t>(tiling.rows + tiling.cols) * sizeof(UpsampledSpan);
  return std::max(convolve_floats(tiling, K) * static_cast<int64_t>(sizeof(float)), gated + spans);
}

int64_t ctas_of(const PlanProblem& problem, const Stage& stage) {
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
  const auto ctas = static_cast<double>(ctas_of(problem, stage));
  return {ctas * (multiplies * (1 + kSharedReadsPerFma) + bytes / 16 / kWarp * kLoadInstructions) / kSchedulers,
          ctas * bytes / kBytesPerCycle, ctas * kMemoryLatency * (1 + bands)};
}

// A multiprocessor's time for its share of the launch.
double launch_cycles(const PlanProblem& problem, const DeviceProperties& device, const LaunchPlan& plan) {
  constexpr double kWarpsThatFillIssue = 8;
  const int32_t threads = plan.grid.threads;
  const double resident = static_cast<double>(resident_ctas(device, threads, plan.grid.shared_bytes, kMaxRegisters));
  int64_t ctas = 0;  // those of the grid that have something to do
  for (int32_t s = 0; s < plan.stages.count; ++s) ctas += ctas_of(problem, plan.stages.at[s]);
  const double share = static_cast<double>(ctas) / device.multiprocessors;
  const double rounds = std::ceil(share) / share;  // share of the busiest multiprocessor, over the mean
  const double at_once = std::min(resident, std::ceil(share));
  const double unfilled = std::max(1.0, kWarpsThatFillIssue * kWarp / (at_once * threads));
  double cycles = 0;
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    const Cost cost = stage_cost(problem, plan.stages.at[s]);
    cycles += std::max(cost.issue * unfilled, cost.traffic) + cost.latency / at_once;
  }
  return cycles / device.multiprocessors * rounds;
}

// The stage in those tiles for `warps` warps that cost least; nothing where no tile fits into shared memory.
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
  LaunchPlan plan{Path::kCudaCores, {0, warps * kWarp, 0}, kPairs, {0, {}}, 0};
  for (const Stage& untiled : stages) {
    const auto stage = cut_stage(problem, device, untiled, warps, band_rows, upsampled);
    if (!stage) return std::nullopt;
    plan.stages.at[plan.stages.count++] = *stage;
    plan.grid.shared_bytes = std::max(plan.grid.shared_bytes, shared_bytes(stage->tiling, K));
  }
  if (plan.stages.count > 0) plan.grid.blocks = order_ctas(plan.stages, problem.sizes, kPairs);
  if (plan.grid.blocks > 0) plan.estimated_cycles = launch_cycles(problem, device, plan);
  return plan;
}

}  // namespace

LaunchPlan convolution_launch(const PlanProblem& problem, const DeviceProperties& device,
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

}  // namespace deltaconv::cuda::cuda_cores

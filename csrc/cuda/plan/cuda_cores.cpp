// The plan for CUDA cores: the CTA size and the tiles that a simple cost model finds fastest.
#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "cuda/layout/register_tile.h"
#include "cuda/plan/cuda_cores_cost.h"

namespace deltaconv::cuda::cuda_cores {
namespace {

// Shared memory of a CTA. The convolution uses it first; then the gated values that are upsampled, or their gradients
// together with where the tile's rows and columns went when they were upsampled.
int64_t shared_bytes(const Tiling& tiling, int32_t K) {
  const int64_t gated = static_cast<int64_t>(tiling.rows) * tiling.cols * kPairs * sizeof(float);
  const int64_t spans = static_cast<int64_t>(tiling.rows + tiling.cols) * sizeof(UpsampledSpan);
  return std::max(convolve_floats(tiling, K) * static_cast<int64_t>(sizeof(float)), gated + spans);
}

// The stage in those tiles for `warps` warps that keep a unit busy for the fewest cycles; nothing where no tile fits
// into shared memory.
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
    const CtaCycles cycles = cta_cycles(cost_of(cta_work(problem, stage, upsampled)), warps * kWarp, 1);
    const double busy = static_cast<double>(stage.tiling.count()) * cycles.busy;
    if (busy < least) {
      least = busy;
      best = stage;
    }
  }
  return best;
}

// The launch of these stages by CTAs of `warps` warps; nothing where no tile fits into shared memory.
std::optional<LaunchPlan> launch_by(const PlanProblem& problem, const DeviceProperties& device,
                                    const std::vector<Stage>& stages, bool upsampled, int32_t warps,
                                    int32_t band_rows) {
  const auto K = static_cast<int32_t>(problem.sizes.K);
  LaunchPlan plan{Path::kCudaCores, {0, warps * kWarp, 0}, kPairs, {0, {}}, 0, {}, 0};
  for (const Stage& untiled : stages) {
    const auto stage = cut_stage(problem, device, untiled, warps, band_rows, upsampled);
    if (!stage) return std::nullopt;
    plan.stages.at[plan.stages.count++] = *stage;
    plan.grid.shared_bytes = std::max(plan.grid.shared_bytes, shared_bytes(stage->tiling, K));
  }
  if (plan.stages.count > 0) plan.grid.blocks = order_ctas(plan.stages, problem.sizes, kPairs);
  const auto cost = [&](const Stage& stage) { return cost_of(cta_work(problem, stage, upsampled)); };
  set_cycles(problem, device, kMaxRegisters, cost, plan);
  return plan;
}

}  // namespace

LaunchPlan convolution_launch(const PlanProblem& problem, const DeviceProperties& device,
                              const std::vector<Stage>& stages, bool upsampled) {
  constexpr int32_t kWholeTile = std::numeric_limits<int32_t>::max();
  std::vector<LaunchPlan> launches;
  for (const int32_t warps : {8, 4, 2, 1}) {
    if (problem.cta && problem.cta->threads != warps * kWarp) continue;
    for (const int32_t band_rows : {kWholeTile, 16, 8, 4}) {
      const auto launch = launch_by(problem, device, stages, upsampled, warps, band_rows);
      if (launch) launches.push_back(*launch);
    }
  }
  const auto best = fastest(problem, device, std::move(launches));
  if (!best) fail_to_plan(problem, device);
  return *best;
}

}  // namespace deltaconv::cuda::cuda_cores

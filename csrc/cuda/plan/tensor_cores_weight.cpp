// The plan of the weight gradient on tensor cores: the tile that a simple cost model finds fastest, from the shape and
// the shared memory of a CTA alone, so that sums are the same on many GPUs.
#include <algorithm>
#include <cmath>
#include <optional>

#include "cuda/layout/weight_band.h"
#include "cuda/plan/cost.h"

namespace deltaconv::cuda::tensor_cores {
namespace {

constexpr double kWarpsThatFill = 2048;  // a GPU: about 16 on each multiprocessor
constexpr int64_t kWarpsWanted = 8192, kMaxPartitions = 64;

template <class Band>
Stage cut(const PlanProblem& problem, int32_t index) {
  Stage stage = untiled_stage(problem, index);
  const auto K = static_cast<int>(problem.sizes.K);
  const int64_t halves = (stage.rows.reduced + kHalfRows - 1) / kHalfRows * problem.sizes.B;
  const bool joined = problem.sizes.B == 1 || halves / problem.sizes.B % 2 == 0;
  const int input_rows = joined ? joined_input_rows(K) : 2 * half_input_rows(K);
  stage.tiling = {Band::kRows,
                  Band::kCols,
                  Band::kRows,
                  Band::kCols,
                  static_cast<int32_t>((halves + 1) / 2),
                  (stage.cols.reduced + Band::kCols - 1) / Band::kCols,
                  input_rows};
  return stage;
}

// Cycles that a multiprocessor takes for one channel of a tile.
template <class Band>
double tile_cycles(double K) {
  const double turns = std::ceil(K / Band::kMostRows);
  const double products = 2 * Band::kFragments * (K * Band::kBand / 2 + 1);
  const double bytes = 16 * ((Band::kRows + K - 1) * Band::kLoads + Band::kRows * (Band::kFragments + 1.0));
  const double operands = 2 * Band::kLoads * (K + turns) + 8 * Band::kFragments;
  const double diagonals = 2.5 * Band::kBand * K;
  return std::max(
      {products * kProductCycles, (operands + bytes / 128 + diagonals) * kSharedCycles, bytes / kBytesPerCycle});
}

struct Candidate {
  WeightPlan plan;
  double cycles;
};

template <class Band>
std::optional<Candidate> candidate(const PlanProblem& problem, const DeviceProperties& device) {
  const auto K = static_cast<int>(problem.sizes.K);
  WeightPlan plan{};
  plan.path = Path::kTensorCores;
  int64_t tiles = 0, most_tiles = 0;
  for (int32_t s = 0; s < static_cast<int32_t>(problem.factors.size()); ++s) {
    const Stage stage = cut<Band>(problem, s);
    plan.stages.at[plan.stages.count++] = stage;
    plan.input_rows = std::max(plan.input_rows, stage.tiling.band_rows);
    tiles += stage.tiling.count();
    most_tiles = std::max(most_tiles, stage.tiling.count());
  }
  const int64_t wanted = std::clamp<int64_t>(kWarpsWanted / problem.sizes.C, 1, kMaxPartitions);
  const int64_t tiles_each = (most_tiles + wanted - 1) / wanted;
  plan.partitions = static_cast<int32_t>((most_tiles + tiles_each - 1) / tiles_each);
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    plan.stage_partitions[s] =
        static_cast<int32_t>(std::min<int64_t>(plan.stages.at[s].tiling.count(), plan.partitions));
  }

  int64_t most_resident = 0;
  for (const int32_t warps : {8, 4}) {
    const int64_t bytes =
        warps * (2 * Band::buffer_bytes(plan.input_rows) + kChannelPlanesBytes + 4 * weight_totals(K));
    if (bytes > device.shared_per_block) continue;
    const int64_t resident = warps * resident_ctas(device, warps * kWarp, bytes, kWeightBandRegisters);
    if (resident <= most_resident) continue;
    most_resident = resident;
    const int64_t channel_blocks = (problem.sizes.C + warps - 1) / warps;
    plan.grid = {plan.stages.count * plan.partitions * channel_blocks, warps * kWarp, bytes};
  }
  if (most_resident == 0) return std::nullopt;
  const double warps = static_cast<double>(tiles * problem.sizes.C);
  return Candidate{plan, warps * tile_cycles<Band>(K) * std::max(1.0, kWarpsThatFill / std::max(1.0, warps))};
}

}  // namespace

std::optional<WeightPlan> weight_launch(const PlanProblem& problem, const DeviceProperties& device) {
  std::optional<Candidate> best;
  for_each_weight_band(problem.sizes.K, [&](auto band) {
    if (problem.weight_columns.value_or(band.kCols) != band.kCols) return;
    const auto other = candidate<decltype(band)>(problem, device);
    if (other && (!best || other->cycles < best->cycles)) best = other;
  });
  if (!best) return std::nullopt;
  return best->plan;
}

}  // namespace deltaconv::cuda::tensor_cores

// The launches of forward and backward on tensor cores: the tiles and CTA sizes that a simple cost model finds fastest.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "cuda/plan/banded_cost.h"

namespace deltaconv::cuda::tensor_cores {
namespace {

// The tile of a stage's CTAs, and the shared memory that they need.
struct TileChoice {
  int32_t rows, cols;
  int64_t shared_bytes;
};

// The CTAs of a launch; `upsampled`: the results of reduced stages are upsampled; `aligned`: the columns of which a
// tile's first is a multiple.
struct CtaSize {
  int32_t pairs, threads;
  TileChoice full, reduced;  // tiles of stages at full resolution, and of reduced ones
  bool upsampled;
  int32_t aligned = 1;
};

// The launch of these stages; cost(banded, stage) is the CtaCost of the stage's CTAs, which have the tile `banded`.
template <class Cost>
LaunchPlan launch_of(const PlanProblem& problem, const DeviceProperties& device, const std::vector<Stage>& stages,
                     const CtaSize& size, const Cost& cost) {
  const int64_t shared_bytes = std::max(size.full.shared_bytes, size.reduced.shared_bytes);
  LaunchPlan plan{Path::kTensorCores, {0, size.threads, shared_bytes}, size.pairs, {0, {}}, 0, {}, 0};
  for (Stage stage : stages) {
    const bool is_reduced = stage.rows.factor != 1;
    const TileChoice& tile = is_reduced ? size.reduced : size.full;
    const bool share_borders = size.upsampled && is_reduced;
    stage.tiling = tile_stage(stage.rows, stage.cols, tile.rows, tile.cols, share_borders, size.aligned);
    plan.stages.at[plan.stages.count++] = stage;
  }
  if (plan.stages.count > 0) plan.grid.blocks = order_ctas(plan.stages, problem.sizes, size.pairs);
  const auto cost_of_stage = [&](const Stage& stage) {
    CtaCost of_stage;
    with_banded_tile(problem.sizes.K, stage.tiling, [&](auto banded) { of_stage = cost(banded, stage); });
    return of_stage;
  };
  set_cycles(problem, device, kBandedRegisters, cost_of_stage, plan);
  return plan;
}

// The tiles whose bytes_of(tile) of shared memory the device has, the smallest first.
template <class BytesOf>
std::vector<TileChoice> fitting_tiles(const PlanProblem& problem, const DeviceProperties& device,
                                      const BytesOf& bytes_of) {
  std::vector<TileChoice> tiles;
  if (problem.type == ElementType::kFloat32) return tiles;
  for_each_banded_tile(problem.sizes.K, [&](auto banded) {
    const int64_t bytes = bytes_of(banded);
    if (bytes <= device.shared_per_block) tiles.push_back({banded.kRows, banded.kCols, bytes});
  });
  return tiles;
}

bool may_have(const PlanProblem& problem, const TileChoice& tile) {
  return !problem.cta || (problem.cta->rows == tile.rows && problem.cta->cols == tile.cols);
}

// The fastest launch of those whose CTAs have the same tile in all stages. Of size, the threads and the tiles are
// chosen here. cost(banded, stage, threads) is the CtaCost of the stage's CTAs.
template <class BytesOf, class Cost>
std::optional<LaunchPlan> fastest_of_one_tile(const PlanProblem& problem, const DeviceProperties& device,
                                              const std::vector<Stage>& stages, CtaSize size, const BytesOf& bytes_of,
                                              const Cost& cost) {
  std::vector<LaunchPlan> launches;
  for (const TileChoice& tile : fitting_tiles(problem, device, bytes_of)) {
    if (!may_have(problem, tile)) continue;
    for (const int32_t threads : {256, kBandedThreads}) {
      if (problem.cta && problem.cta->threads != threads) continue;
      size.threads = threads;
      size.full = size.reduced = tile;
      launches.push_back(launch_of(problem, device, stages, size,
                                   [&](auto banded, const Stage& stage) { return cost(banded, stage, threads); }));
    }
  }
  return fastest(problem, device, std::move(launches));
}

}  // namespace

std::optional<LaunchPlan> forward_launch(const PlanProblem& problem, const DeviceProperties& device,
                                         int32_t first_stage, int32_t count) {
  return fastest_of_one_tile(
      problem, device, stages_of(problem, first_stage, count), {kBandedPairs, 0, {}, {}, true},
      [&](auto banded) { return banded.shared_bytes(static_cast<int>(problem.sizes.K)); },
      [&](auto banded, const Stage& stage, int32_t threads) {
        return cost_of(CtaWork<decltype(banded)>(problem, stage, threads).forward());
      });
}

std::optional<LaunchPlan> planar_forward_launch(const PlanProblem& problem, const DeviceProperties& device) {
  const auto stages = static_cast<int32_t>(problem.factors.size());
  return fastest_of_one_tile(
      problem, device, stages_of(problem, 0, stages), {kBandedPairs, 0, {}, {}, true, 8},
      [&](auto banded) { return banded.shared_bytes(static_cast<int>(problem.sizes.K)); },
      [&](auto banded, const Stage& stage, int32_t threads) {
        return cost_of(CtaWork<decltype(banded)>(problem, stage, threads).planar_forward());
      });
}

// Reduced stages may have smaller tiles than stages at full resolution: their CTAs take longer, and the launch ends
// with the last one.
std::optional<LaunchPlan> gate_launch(const PlanProblem& problem, const DeviceProperties& device,
                                      const std::vector<Stage>& stages) {
  std::vector<LaunchPlan> launches;
  const auto tiles = fitting_tiles(problem, device, [&](auto banded) {
    return banded.shared_bytes(static_cast<int>(problem.sizes.K)) +
           int64_t{sizeof(UpsampledSpan)} * (banded.kRows + banded.kCols);
  });
  const auto cost = [&](auto banded, const Stage& stage) {
    return cost_of(CtaWork<decltype(banded)>(problem, stage, kBandedThreads).gate());
  };
  for (const TileChoice& full : tiles) {
    if (!may_have(problem, full)) continue;
    for (const TileChoice& reduced : tiles) {
      if (reduced.rows > full.rows || reduced.cols > full.cols) continue;
      if (problem.cta && (problem.cta->reduced_rows != reduced.rows || problem.cta->reduced_cols != reduced.cols))
        continue;
      const CtaSize size{kBandedPairs, kBandedThreads, full, reduced, false};
      launches.push_back(launch_of(problem, device, stages, size, cost));
    }
  }
  return fastest(problem, device, std::move(launches));
}

std::optional<LaunchPlan> adjoint_launch(const PlanProblem& problem, const DeviceProperties& device,
                                         const std::vector<Stage>& stages, const AdjointResults& results) {
  return fastest_of_one_tile(
      problem, device, stages, {kAdjointChannels / 2, 0, {}, {}, false},
      [&](auto banded) -> int64_t {
        return AdjointTile<decltype(banded)>::shared_bytes(static_cast<int>(problem.sizes.K));
      },
      [&](auto banded, const Stage& stage, int32_t threads) {
        return cost_of(CtaWork<decltype(banded)>(problem, stage, threads).adjoint(results));
      });
}

}  // namespace deltaconv::cuda::tensor_cores

// The launches of forward and backward on tensor cores: the tiles and CTA sizes that a simple cost model finds fastest.
#include <optional>
#include <utility>
#include <vector>

#include "cuda/plan/banded_cost.h"

namespace deltaconv::cuda::tensor_cores {
namespace {

// The size of a launch's CTAs; `upsampled`: the results of reduced stages are upsampled; `aligned`: the columns of
// which a tile's first is a multiple.
struct CtaSize {
  int32_t pairs, threads;
  int64_t shared_bytes;
  bool upsampled;
  int32_t aligned = 1;
};

// The launch of these stages in tiles of Banded; cost(stage) is the CtaCost of the stage's CTAs.
template <class Banded, class Cost>
LaunchPlan launch_in(const PlanProblem& problem, const DeviceProperties& device, const std::vector<Stage>& stages,
                     const CtaSize& size, const Cost& cost) {
  LaunchPlan plan{Path::kTensorCores, {0, size.threads, size.shared_bytes}, size.pairs, {0, {}}, 0, {}, 0};
  for (Stage stage : stages) {
    const bool share_borders = size.upsampled && stage.rows.factor != 1;
    stage.tiling = tile_stage(stage.rows, stage.cols, Banded::kRows, Banded::kCols, share_borders, size.aligned);
    plan.stages.at[plan.stages.count++] = stage;
  }
  if (plan.stages.count > 0) plan.grid.blocks = order_ctas(plan.stages, problem.sizes, size.pairs);
  set_cycles(problem, device, kBandedRegisters, cost, plan);
  return plan;
}

// Calls visit(tile, bytes) for the tiles whose bytes_of(tile) of shared memory the device has.
template <class BytesOf, class Visit>
void for_each_fitting_tile(const PlanProblem& problem, const DeviceProperties& device, const BytesOf& bytes_of,
                           const Visit& visit) {
  if (problem.type == ElementType::kFloat32) return;
  for_each_banded_tile(problem.sizes.K, [&](auto banded) {
    if (problem.cta && (problem.cta->rows != banded.kRows || problem.cta->cols != banded.kCols)) return;
    const int64_t bytes = bytes_of(banded);
    if (bytes <= device.shared_per_block) visit(banded, bytes);
  });
}

// `planar`: the stages read channel planes, from multiples of 8 columns on.
std::optional<LaunchPlan> fastest_forward(const PlanProblem& problem, const DeviceProperties& device,
                                          const std::vector<Stage>& stages, bool planar) {
  std::vector<LaunchPlan> launches;
  const auto K = static_cast<int>(problem.sizes.K);
  const auto bytes_of = [&](auto banded) { return banded.shared_bytes(K); };
  for_each_fitting_tile(problem, device, bytes_of, [&](auto banded, int64_t bytes) {
    using Banded = decltype(banded);
    for (const int32_t threads : {256, kBandedThreads}) {
      if (problem.cta && problem.cta->threads != threads) continue;
      const auto cost = [&](const Stage& stage) {
        const CtaWork<Banded> work(problem, stage, threads);
        return cost_of(planar ? work.planar_forward() : work.forward());
      };
      const CtaSize size{kBandedPairs, threads, bytes, true, planar ? 8 : 1};
      launches.push_back(launch_in<Banded>(problem, device, stages, size, cost));
    }
  });
  return fastest(problem, device, std::move(launches));
}

}  // namespace

std::optional<LaunchPlan> forward_launch(const PlanProblem& problem, const DeviceProperties& device,
                                         int32_t first_stage, int32_t count) {
  return fastest_forward(problem, device, stages_of(problem, first_stage, count), false);
}

std::optional<LaunchPlan> planar_forward_launch(const PlanProblem& problem, const DeviceProperties& device) {
  return fastest_forward(problem, device, stages_of(problem, 0, static_cast<int32_t>(problem.factors.size())), true);
}

std::optional<LaunchPlan> gate_launch(const PlanProblem& problem, const DeviceProperties& device,
                                      const std::vector<Stage>& stages) {
  std::vector<LaunchPlan> launches;
  const auto K = static_cast<int>(problem.sizes.K);
  const auto bytes_of = [&](auto banded) {
    return banded.shared_bytes(K) + int64_t{sizeof(UpsampledSpan)} * (banded.kRows + banded.kCols);
  };
  for_each_fitting_tile(problem, device, bytes_of, [&](auto banded, int64_t bytes) {
    using Banded = decltype(banded);
    const auto cost = [&](const Stage& stage) {
      return cost_of(CtaWork<Banded>(problem, stage, kBandedThreads).gate());
    };
    launches.push_back(launch_in<Banded>(problem, device, stages, {kBandedPairs, kBandedThreads, bytes, false}, cost));
  });
  return fastest(problem, device, std::move(launches));
}

std::optional<LaunchPlan> adjoint_launch(const PlanProblem& problem, const DeviceProperties& device,
                                         const std::vector<Stage>& stages, const AdjointResults& results) {
  std::vector<LaunchPlan> launches;
  const auto K = static_cast<int>(problem.sizes.K);
  const auto bytes_of = [&](auto banded) { return AdjointTile<decltype(banded)>::shared_bytes(K); };
  for_each_fitting_tile(problem, device, bytes_of, [&](auto banded, int64_t bytes) {
    using Banded = decltype(banded);
    for (const int32_t threads : {256, kBandedThreads}) {
      if (problem.cta && problem.cta->threads != threads) continue;
      const auto cost = [&](const Stage& stage) {
        return cost_of(CtaWork<Banded>(problem, stage, threads).adjoint(results));
      };
      launches.push_back(
          launch_in<Banded>(problem, device, stages, {kAdjointChannels / 2, threads, bytes, false}, cost));
    }
  });
  return fastest(problem, device, std::move(launches));
}

}  // namespace deltaconv::cuda::tensor_cores

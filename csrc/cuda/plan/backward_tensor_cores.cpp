// The backward pass's launches on tensor cores: tiles and block sizes that the forward's cost model finds
// fastest.
#include <algorithm>

#include "cuda/layout/adjoint_tile.h"
#include "cuda/plan/cost.h"

namespace deltaconv::cuda {
namespace {

// Of `channels` channels: the products, or the reads from shared memory that they wait for.
template <class Banded>
double convolution_cycles(double K, double channels) {
  const double products = K * Banded::kStep * Banded::kBlocks * Banded::kBand / 2.0;
  const double accesses = (K + 1) / 2 * (4 * Banded::kLoads + 2 * Banded::kBand);
  return channels * std::max(products * kProductCycles, accesses * kSharedCycles);
}

// The part of a tile's window that lies in the grid.
template <class Banded>
double window_values(const Stage& stage, double K) {
  return std::min(Banded::kRows + K - 1, static_cast<double>(stage.rows.reduced)) *
         std::min(Banded::kCols + K - 1, static_cast<double>(stage.cols.reduced));
}

template <class Banded>
double result_values(const Stage& stage) {
  return static_cast<double>(std::min(Banded::kRows, stage.rows.reduced)) * std::min(Banded::kCols, stage.cols.reduced);
}

// Of the launch through the gate: it reads x as the forward does, then the result's gradient, of reduced
// stages each pixel for all four neighbours in the grid; it writes planes of gradients and of inputs.
template <class Banded>
BlockCost gate_cost(const PlanProblem& problem, const Stage& stage) {
  const auto K = static_cast<double>(problem.sizes.K), channels = 2.0 * kBandedPairs;
  const double window = static_cast<double>(stage.rows.factor) * stage.cols.factor;
  const double results = result_values<Banded>(stage);
  const double gradients = results * (stage.rows.factor == 1 ? 1.0 : 4 * window) / 2;
  return {convolution_cycles<Banded>(K, channels),
          channels * 2 * (window_values<Banded>(stage, K) * window + K * K + gradients), channels * 2 * 2 * results,
          true};
}

// Of a flipped convolution.
template <class Banded>
BlockCost adjoint_cost(const PlanProblem& problem, const Stage& stage, const AdjointResults& results) {
  const auto K = static_cast<double>(problem.sizes.K), values = result_values<Banded>(stage);
  const bool convolves = stage.index >= 0;
  const double read = convolves ? 2 * (window_values<Banded>(stage, K) + K * K) : 0;
  return {convolves ? convolution_cycles<Banded>(K, kAdjointChannels) : 0,
          kAdjointChannels * (read + 4 * results.added * values), kAdjointChannels * results.bytes * values, false};
}

// The launch of these stages in tiles of Banded; its cost is still to be estimated.
template <class Banded>
LaunchPlan cut_launch(const PlanProblem& problem, const std::vector<Stage>& stages, int32_t pairs, int32_t threads,
                      int64_t shared_bytes) {
  LaunchPlan plan{Road::kTensorCores, {0, threads, shared_bytes}, pairs, {0, {}}, 0};
  for (Stage stage : stages) {
    stage.tiling = tile_stage(stage.rows, stage.cols, Banded::kRows, Banded::kCols, false);
    plan.stages.at[plan.stages.count++] = stage;
  }
  if (plan.stages.count > 0) plan.grid.blocks = order_blocks(plan.stages, problem.sizes, pairs);
  return plan;
}

template <class CostOf>
void estimate(const PlanProblem& problem, const DeviceProperties& device, LaunchPlan& plan, const CostOf& cost_of) {
  if (plan.grid.blocks > 0) {
    plan.estimated_cycles = launch_cycles(problem, device, plan, kBandedRegisters, cost_of);
  }
}

void keep_faster(std::optional<LaunchPlan>& best, const LaunchPlan& plan) {
  if (!best || plan.estimated_cycles < best->estimated_cycles) best = plan;
}

}  // namespace

std::optional<LaunchPlan> tensor_cores_gate(const PlanProblem& problem, const DeviceProperties& device,
                                            const std::vector<Stage>& stages) {
  std::optional<LaunchPlan> best;
  const auto K = static_cast<int>(problem.sizes.K);
  for_each_banded_tile(K, [&](auto banded) {
    using Banded = decltype(banded);
    const int64_t bytes = Banded::shared_bytes(K) + int64_t{sizeof(UpsampledSpan)} * (Banded::kRows + Banded::kCols);
    if (bytes > device.shared_per_block) return;
    auto plan = cut_launch<Banded>(problem, stages, kBandedPairs, kBandedThreads, bytes);
    estimate(problem, device, plan, [&](const Stage& stage) { return gate_cost<Banded>(problem, stage); });
    keep_faster(best, plan);
  });
  return best;
}

std::optional<LaunchPlan> tensor_cores_adjoint(const PlanProblem& problem, const DeviceProperties& device,
                                               const std::vector<Stage>& stages, const AdjointResults& results) {
  std::optional<LaunchPlan> best;
  const auto K = static_cast<int>(problem.sizes.K);
  for_each_banded_tile(K, [&](auto banded) {
    using Banded = decltype(banded);
    const int64_t bytes = AdjointTile<Banded>::shared_bytes(K);
    if (bytes > device.shared_per_block) return;
    for (const int32_t threads : {256, kBandedThreads}) {
      auto plan = cut_launch<Banded>(problem, stages, kAdjointChannels / 2, threads, bytes);
      estimate(problem, device, plan,
               [&](const Stage& stage) { return adjoint_cost<Banded>(problem, stage, results); });
      keep_faster(best, plan);
    }
  });
  return best;
}

}  // namespace deltaconv::cuda

// The launches of forward and backward on tensor cores: the tiles and CTA sizes that a simple cost model finds fastest.
#include <algorithm>
#include <optional>

#include "cuda/layout/adjoint_tile.h"
#include "cuda/plan/cost.h"

namespace deltaconv::cuda::tensor_cores {
namespace {

// Cycles that the convolutions of `channels` channels of a tile take: those of the products, or of the reads from
// shared memory that products wait for.
template <class Banded>
double convolution_cycles(double K, double channels) {
  const double products = K * Banded::kStep * Banded::kFragments * Banded::kBand / 2.0;
  const double accesses = (K + 1) / 2 * (4 * Banded::kLoads + 2 * Banded::kBand);
  return channels * std::max(products * kProductCycles, accesses * kSharedCycles);
}

// The part of a tile's window that lies in the grid. Zeros around the image are not read.
template <class Banded>
double window_values(const Stage& stage, double K) {
  return std::min(Banded::kRows + K - 1, static_cast<double>(stage.rows.reduced)) *
         std::min(Banded::kCols + K - 1, static_cast<double>(stage.cols.reduced));
}

template <class Banded>
double result_values(const Stage& stage) {
  return static_cast<double>(std::min(Banded::kRows, stage.rows.reduced)) * std::min(Banded::kCols, stage.cols.reduced);
}

// Pixels of x in a pooling window.
double pooled_pixels(const Stage& stage) { return static_cast<double>(stage.rows.factor) * stage.cols.factor; }

// The forward reads x and writes the upsampled results, one for each channel pair.
template <class Banded>
CtaCost forward_cost(const PlanProblem& problem, const Stage& stage, int32_t threads) {
  const auto K = static_cast<double>(problem.sizes.K), channels = 2.0 * kBandedPairs;
  const double written = Banded::kRows * Banded::kCols * pooled_pixels(stage) / 2;
  return {convolution_cycles<Banded>(K, channels),
          channels * 2 * (window_values<Banded>(stage, K) * pooled_pixels(stage) + K * K), channels * 2 * written,
          threads == kBandedPairs * kWarp};
}

// The launch through the gate reads x as the forward does, then the result's gradient; in reduced stages it reads each
// pixel's gradient for all four neighbours in the grid. It writes planes of gradients and of inputs.
template <class Banded>
CtaCost gate_cost(const PlanProblem& problem, const Stage& stage) {
  const auto K = static_cast<double>(problem.sizes.K), channels = 2.0 * kBandedPairs;
  const double window = pooled_pixels(stage), results = result_values<Banded>(stage);
  const double gradients = results * (stage.rows.factor == 1 ? 1.0 : 4 * window) / 2;
  return {convolution_cycles<Banded>(K, channels),
          channels * 2 * (window_values<Banded>(stage, K) * window + K * K + gradients), channels * 2 * 2 * results,
          true};
}

// A flipped convolution reads a plane of gradients and the values that it adds.
template <class Banded>
CtaCost adjoint_cost(const PlanProblem& problem, const Stage& stage, const AdjointResults& results) {
  const auto K = static_cast<double>(problem.sizes.K), values = result_values<Banded>(stage);
  const bool convolves = stage.index >= 0;
  const double read = convolves ? 2 * (window_values<Banded>(stage, K) + K * K) : 0;
  return {convolves ? convolution_cycles<Banded>(K, kAdjointChannels) : 0,
          kAdjointChannels * (read + 4 * results.added * values), kAdjointChannels * results.bytes * values, false};
}

// The size of a launch's CTAs; `upsampled`: the results of reduced stages are upsampled.
struct CtaSize {
  int32_t pairs, threads;
  int64_t shared_bytes;
  bool upsampled;
};

// The launch of these stages in tiles of Banded; cost_of(stage) is the cost of the stage's CTAs.
template <class Banded, class CostOf>
LaunchPlan candidate(const PlanProblem& problem, const DeviceProperties& device, const std::vector<Stage>& stages,
                     const CtaSize& size, const CostOf& cost_of) {
  LaunchPlan plan{Path::kTensorCores, {0, size.threads, size.shared_bytes}, size.pairs, {0, {}}, 0};
  for (Stage stage : stages) {
    const bool share_borders = size.upsampled && stage.rows.factor != 1;
    stage.tiling = tile_stage(stage.rows, stage.cols, Banded::kRows, Banded::kCols, share_borders);
    plan.stages.at[plan.stages.count++] = stage;
  }
  if (plan.stages.count > 0) plan.grid.blocks = order_ctas(plan.stages, problem.sizes, size.pairs);
  if (plan.grid.blocks > 0) plan.estimated_cycles = launch_cycles(problem, device, plan, kBandedRegisters, cost_of);
  return plan;
}

// Calls visit(tile, bytes) for the tiles whose bytes_of(tile) of shared memory the device has.
template <class BytesOf, class Visit>
void for_each_fitting_tile(const PlanProblem& problem, const DeviceProperties& device, const BytesOf& bytes_of,
                           const Visit& visit) {
  if (problem.type == ElementType::kFloat32) return;
  for_each_banded_tile(problem.sizes.K, [&](auto banded) {
    const int64_t bytes = bytes_of(banded);
    if (bytes <= device.shared_per_block) visit(banded, bytes);
  });
}

void keep_faster(std::optional<LaunchPlan>& best, const LaunchPlan& plan) {
  if (!best || plan.estimated_cycles < best->estimated_cycles) best = plan;
}

}  // namespace

std::optional<LaunchPlan> forward_launch(const PlanProblem& problem, const DeviceProperties& device,
                                         int32_t first_stage, int32_t count) {
  std::optional<LaunchPlan> best;
  const auto K = static_cast<int>(problem.sizes.K);
  const std::vector<Stage> stages = stages_of(problem, first_stage, count);
  const auto bytes_of = [&](auto banded) { return banded.shared_bytes(K); };
  for_each_fitting_tile(problem, device, bytes_of, [&](auto banded, int64_t bytes) {
    using Banded = decltype(banded);
    for (const int32_t threads : {256, kBandedThreads}) {
      keep_faster(best, candidate<Banded>(problem, device, stages, {kBandedPairs, threads, bytes, true},
                                          [&](const Stage& s) { return forward_cost<Banded>(problem, s, threads); }));
    }
  });
  return best;
}

std::optional<LaunchPlan> gate_launch(const PlanProblem& problem, const DeviceProperties& device,
                                      const std::vector<Stage>& stages) {
  std::optional<LaunchPlan> best;
  const auto K = static_cast<int>(problem.sizes.K);
  const auto bytes_of = [&](auto banded) {
    return banded.shared_bytes(K) + int64_t{sizeof(UpsampledSpan)} * (banded.kRows + banded.kCols);
  };
  for_each_fitting_tile(problem, device, bytes_of, [&](auto banded, int64_t bytes) {
    using Banded = decltype(banded);
    keep_faster(best, candidate<Banded>(problem, device, stages, {kBandedPairs, kBandedThreads, bytes, false},
                                        [&](const Stage& s) { return gate_cost<Banded>(problem, s); }));
  });
  return best;
}

std::optional<LaunchPlan> adjoint_launch(const PlanProblem& problem, const DeviceProperties& device,
                                         const std::vector<Stage>& stages, const AdjointResults& results) {
  std::optional<LaunchPlan> best;
  const auto K = static_cast<int>(problem.sizes.K);
  const auto bytes_of = [&](auto banded) { return AdjointTile<decltype(banded)>::shared_bytes(K); };
  for_each_fitting_tile(problem, device, bytes_of, [&](auto banded, int64_t bytes) {
    using Banded = decltype(banded);
    for (const int32_t threads : {256, kBandedThreads}) {
      keep_faster(best, candidate<Banded>(problem, device, stages, {kAdjointChannels / 2, threads, bytes, false},
                                          [&](const Stage& s) { return adjoint_cost<Banded>(problem, s, results); }));
    }
  });
  return best;
}

}  // namespace deltaconv::cuda::tensor_cores

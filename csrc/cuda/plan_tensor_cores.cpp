// The plan for tensor cores: the tile and the block size that a simple cost model finds fastest.
#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>

#include "cuda/banded_tile.h"
#include "cuda/plan.h"

namespace deltaconv::cuda {
namespace {

// Rates of sm_90 in cycles of a multiprocessor, of which only the ratios matter: 16 x 8 x 16 products at the
// 620 TFLOP/s that mma.sync reaches on an H200; a shared-memory access of 128 bytes; bytes from the L2, and a
// load's way there and back, with 64 bytes of each thread under way.
constexpr double kProductCycles = 1.5, kSharedCycles = 1, kBytesPerCycle = 32, kMemoryLatency = 900;
constexpr double kBytesUnderWay = 64;

// What a block of a stage asks of its multiprocessor.
struct Cost {
  double compute;  // cycles of the tensor cores or of shared memory, whichever is busier
  double bytes;    // between the L2 and the multiprocessor
};

template <class Banded>
Cost block_cost(const PlanProblem& problem, const Stage& stage) {
  const auto K = static_cast<double>(problem.sizes.K), channels = 2.0 * kBandedPairs;
  const double products = K * Banded::kStep * Banded::kBlocks * Banded::kBand / 2.0;
  const double accesses = (K + Banded::kStep - 1) * (2 * Banded::kLoads + Banded::kBand);
  const double window = static_cast<double>(stage.rows.factor) * stage.cols.factor;
  const double read = (Banded::kRows + K - 1) * (Banded::kCols + K - 1) * window + K * K;
  const double written = Banded::kRows * Banded::kCols * window / 2;
  return {channels * std::max(products * kProductCycles, accesses * kSharedCycles),
          channels * 2 * (read + written)};
}

// A multiprocessor's time for its share of the launch.
template <class Banded>
double launch_cycles(const PlanProblem& problem, const DeviceProperties& device, const LaunchPlan& plan) {
  constexpr double kWarpsThatFill = 8;  // two for each of the four tensor cores
  const BlockOrder order(plan.stages, problem.sizes, kBandedPairs);
  const int64_t resident =
      resident_blocks(device, plan.grid.threads, plan.grid.shared_bytes, kBandedRegisters);
  const double share = static_cast<double>(plan.grid.blocks) / device.multiprocessors;
  const double rounds = std::ceil(share) / share;  // the busiest multiprocessor's share against the mean's
  const double at_once = std::min(static_cast<double>(resident), std::ceil(share));
  const double threads = at_once * plan.grid.threads;
  const double unfilled = std::max(1.0, kWarpsThatFill * kWarp / threads);
  const double bandwidth = std::min(kBytesPerCycle, threads * kBytesUnderWay / kMemoryLatency);
  double cycles = 0;
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    const Stage& stage = plan.stages.at[s];
    const Cost cost = block_cost<Banded>(problem, stage);
    const double compute = cost.compute * unfilled, traffic = cost.bytes / bandwidth;
    // A block computes after it has loaded; several overlap.
    const double together = std::max(compute, traffic) + std::min(compute, traffic) / at_once;
    const auto blocks = static_cast<double>(stage.tiling.count() * problem.sizes.B * order.channel_blocks);
    cycles += blocks * (together + 2 * kMemoryLatency / at_once);
  }
  return cycles / device.multiprocessors * rounds;
}

template <class Banded>
LaunchPlan candidate(const PlanProblem& problem, const DeviceProperties& device, int32_t first_stage,
                     int32_t count, int32_t threads) {
  LaunchPlan plan{Road::kTensorCores, {0, threads, 0}, kBandedPairs, {count, {}}, 0};
  for (int32_t s = 0; s < count; ++s) {
    Stage stage = untiled_stage(problem, first_stage + s);
    stage.tiling = tile_stage(stage.rows, stage.cols, Banded::kRows, Banded::kCols, stage.rows.factor != 1);
    plan.stages.at[s] = stage;
  }
  plan.grid.blocks = BlockOrder(plan.stages, problem.sizes, kBandedPairs).blocks();
  plan.grid.shared_bytes = Banded::shared_bytes(static_cast<int>(problem.sizes.K));
  if (plan.grid.blocks > 0) plan.estimated_cycles = launch_cycles<Banded>(problem, device, plan);
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

LaunchPlan tensor_cores_forward(const PlanProblem& problem, const DeviceProperties& device,
                                int32_t first_stage, int32_t count) {
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

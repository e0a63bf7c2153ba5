// What a launch on tensor cores should take: the simple model by which the plan chooses tiles and CTA sizes.
#pragma once

#include <algorithm>
#include <cmath>

#include "cuda/plan/plan.h"

namespace deltaconv::cuda {

// Rates of sm_90 in cycles of a multiprocessor; only their ratios matter. kProductCycles: a product of 16 x 8 x 16, at
// the 620 TFLOP/s that mma.sync reaches on an H200. kSharedCycles: an access of 128 bytes to shared memory.
// kBytesPerCycle, kMostBytesPerCycle: bytes from the L2 with all multiprocessors reading, and with a few.
// kMemoryLatency: a load's way to memory and back, with kBytesInFlight bytes of each thread in flight.
inline constexpr double kProductCycles = 1.5, kSharedCycles = 1, kBytesPerCycle = 32, kMostBytesPerCycle = 64;
inline constexpr double kMemoryLatency = 900, kBytesInFlight = 64;

// What a CTA asks of its multiprocessor.
struct CtaCost {
  double compute;        // cycles of the tensor cores or of shared memory, whichever is busier
  double read, written;  // bytes between the L2 and the multiprocessor
  bool in_turn;          // half of what is read arrives while half of the rest is computed
};

// A multiprocessor's time for its share of a launch; cost_of(stage) is the CtaCost of the stage's CTAs.
template <class CostOf>
double launch_cycles(const PlanProblem& problem, const DeviceProperties& device, const LaunchPlan& plan,
                     int32_t registers, const CostOf& cost_of) {
  constexpr double kWarpsThatFill = 8;  // two for each of the four tensor cores
  const auto channel_blocks = static_cast<double>((problem.sizes.C / 2 + plan.pairs - 1) / plan.pairs);
  const int64_t resident = resident_ctas(device, plan.grid.threads, plan.grid.shared_bytes, registers);
  const double share = static_cast<double>(plan.grid.blocks) / device.multiprocessors;
  const double rounds = std::ceil(share) / share;  // share of the busiest multiprocessor, over the mean
  const double at_once = std::min(static_cast<double>(resident), std::ceil(share));
  const double threads = at_once * plan.grid.threads;
  const double unfilled = std::max(1.0, kWarpsThatFill * kWarp / threads);
  const double bandwidth =
      std::min({kBytesPerCycle / std::min(share, 1.0), kMostBytesPerCycle, threads * kBytesInFlight / kMemoryLatency});
  double cycles = 0;
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    const Stage& stage = plan.stages.at[s];
    const CtaCost cost = cost_of(stage);
    const double compute = cost.compute * unfilled, read = cost.read / bandwidth;
    const double written = cost.written / bandwidth;
    // A CTA computes after it has loaded; CTAs of one multiprocessor overlap.
    const double alone =
        compute + read + written - (cost.in_turn ? std::min(compute, read) / 2 : 0) + 2 * kMemoryLatency;
    const double busiest = std::max(compute, read + written);
    const double ctas = static_cast<double>(stage.tiling.count() * problem.sizes.B) * channel_blocks;
    cycles += ctas * (busiest + (alone - busiest) / at_once);
  }
  return cycles / device.multiprocessors * rounds;
}

}  // namespace deltaconv::cuda

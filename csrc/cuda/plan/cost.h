// The model by which the plan chooses tiles and CTA sizes: the cycles that a CTA takes by what it asks of the units of
// its multiprocessor. The rates are those of sm_90; only their ratios matter.
#pragma once

#include <algorithm>
#include <array>

#include "cuda/plan/plan.h"
#include "cuda/plan/schedule.h"

namespace deltaconv::cuda {

// Rates in cycles of a multiprocessor. kSchedulers: each issues an instruction of a warp a cycle. kProductCycles: a
// product of 16 x 8 x 16, at the 620 TFLOP/s that mma.sync reaches on an H200. kSharedCycles: a wavefront, an access of
// up to 128 bytes to shared memory.
inline constexpr double kSchedulers = 4, kProductCycles = 1.5, kSharedCycles = 1;

// Two warps for each scheduler keep it busy.
inline constexpr double kWarpsThatFill = 8;

// kBytesPerCycle, kMostBytesPerCycle: bytes from the L2 with all multiprocessors reading, and with a few.
// kMemoryLatency: a load's way to memory and back, with kBytesInFlight bytes of each thread in flight.
inline constexpr double kBytesPerCycle = 32, kMostBytesPerCycle = 64;
inline constexpr double kMemoryLatency = 900, kBytesInFlight = 64;

// A part of a CTA's time in which its units work at once; the busiest of them sets the pace.
struct Phase {
  double instructions = 0, products = 0, wavefronts = 0;  // all warps together
  double bytes = 0;                                       // between the L2 and the multiprocessor
  double waits = 0;           // times that all warps wait for memory, or for a barrier behind it
  bool asynchronous = false;  // all bytes are in flight at once, not in registers

  double computing() const {
    return std::max({instructions / kSchedulers, products * kProductCycles, wavefronts * kSharedCycles});
  }
};

inline Phase operator+(const Phase& a, const Phase& b) {
  return {a.instructions + b.instructions, a.products + b.products, a.wavefronts + b.wavefronts, a.bytes + b.bytes,
          a.waits + b.waits};
}

// A CTA's phases, one after the other.
using CtaCost = std::array<Phase, 4>;

// `at_once`: CTAs of the launch for each multiprocessor. Below 1, idle multiprocessors leave the others more of the L2.
inline CtaCycles cta_cycles(const CtaCost& cost, int32_t threads, double at_once) {
  const double unfilled = std::max(1.0, kWarpsThatFill * kWarp / threads);
  const double most = std::min(kMostBytesPerCycle, kBytesPerCycle / std::min(at_once, 1.0));
  const double by_registers = std::min(most, threads * kBytesInFlight / kMemoryLatency);
  CtaCycles cycles{};
  Phase all;
  for (const Phase& phase : cost) {
    const double bandwidth = phase.asynchronous ? most : by_registers;
    cycles.alone += std::max(phase.computing() * unfilled, phase.bytes / bandwidth) + phase.waits * kMemoryLatency;
    all = all + phase;
  }
  cycles.busy = std::max(all.computing(), all.bytes / most);
  return cycles;
}

// Sets what the model says of the launch's CTAs; cost(stage) is the CtaCost of a CTA of the stage.
template <class Cost>
void set_cycles(const PlanProblem& problem, const DeviceProperties& device, int32_t registers, const Cost& cost,
                LaunchPlan& plan) {
  plan.resident = resident_ctas(device, plan.grid.threads, plan.grid.shared_bytes, registers);
  double ctas = 0;
  for (int32_t s = 0; s < plan.stages.count; ++s) ctas += static_cast<double>(ctas_of(problem, plan, s));
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    plan.cycles[s] = cta_cycles(cost(plan.stages.at[s]), plan.grid.threads, ctas / device.multiprocessors);
  }
}

}  // namespace deltaconv::cuda

#include "cuda/plan/fused_block.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <sstream>
#include <stdexcept>

#include "cuda/layout/product_tile.h"
#include "cuda/plan/cost.h"

namespace deltaconv::cuda {
namespace {

constexpr int32_t kRegisters = 128;  // registers of a thread

int64_t divide_up(int64_t count, int64_t by) { return (count + by - 1) / by; }

// Cycles that the busiest multiprocessor takes.
template <class Tile>
double projection_cycles(const ProjectionPlan& plan, const DeviceProperties& device) {
  constexpr double kFragments16 = fused_block::kProductDepth / 16, kWarps = Tile::kThreads / kWarp;
  const auto steps = static_cast<double>(divide_up(plan.depth, fused_block::kProductDepth));
  const double products = kFragments16 * (Tile::kRows / 16.0) * (Tile::kCols / 8.0);
  const double accesses = kFragments16 * kWarps * (Tile::kWarpRows + Tile::kWarpCols) / 16.0 * 4;
  const double step_bytes = 2.0 * fused_block::kProductDepth * (Tile::kRows + Tile::kCols);
  const double result_bytes = 2.0 * 2 * Tile::kRows * Tile::kCols;  // written, and a residual read
  const double share = static_cast<double>(plan.grid.blocks) / device.multiprocessors, most = std::ceil(share);
  const auto resident =
      static_cast<double>(resident_ctas(device, plan.grid.threads, plan.grid.shared_bytes, kRegisters));
  const double in_flight = std::min(resident, most) * step_bytes * (Tile::kSteps - 1);
  const double bandwidth =
      std::min({kBytesPerCycle / std::min(share, 1.0), kMostBytesPerCycle, in_flight / kMemoryLatency});
  const double compute = steps * std::max(products * kProductCycles, accesses * kSharedCycles);
  const double traffic = (steps * step_bytes + result_bytes) / bandwidth;
  // The first copies and the residual are waited for, unless other CTAs compute.
  return most * std::max(compute, traffic) + std::ceil(most / resident) * 2 * kMemoryLatency;
}

ProjectionPlan projection_plan(const Sizes& sizes, int64_t depth, int64_t cols, const DeviceProperties& device) {
  std::optional<ProjectionPlan> best;
  fused_block::for_each_product_tile([&](auto tile) {
    using Tile = decltype(tile);
    if (Tile::kSharedBytes > device.shared_per_block) return;
    const int64_t row_tiles = divide_up(sizes.H * sizes.W, Tile::kRows), col_tiles = divide_up(cols, Tile::kCols);
    ProjectionPlan plan{{sizes.B * row_tiles * col_tiles, Tile::kThreads, Tile::kSharedBytes},
                        Tile::kRows,
                        Tile::kCols,
                        static_cast<int32_t>(row_tiles),
                        static_cast<int32_t>(col_tiles),
                        depth,
                        cols,
                        0};
    plan.estimated_cycles = projection_cycles<Tile>(plan, device);
    if (!best || plan.estimated_cycles < best->estimated_cycles) best = plan;
  });
  if (!best) throw std::runtime_error("block: no tile of its projections fits this GPU's shared memory");
  check_grid(best->grid);
  return *best;
}

}  // namespace

FusedBlockPlan fused_block_plan(const FusedBlockProblem& problem, const DeviceProperties& device) {
  const Sizes& sizes = problem.pyramid.sizes;
  FusedBlockPlan plan{};
  plan.in = projection_plan(sizes, problem.dim, sizes.C, device);
  plan.pyramid = forward_plan(problem.pyramid, device);
  plan.out = projection_plan(sizes, sizes.S * (sizes.C / 2), problem.dim, device);
  plan.shift_slices = static_cast<int32_t>(divide_up(problem.dim, fused_block::kShiftChannels));
  plan.shift_output_tiles = static_cast<int32_t>(divide_up(problem.dim, fused_block::kShiftOutputs));
  plan.shift = {sizes.B * plan.shift_slices * plan.shift_output_tiles, fused_block::kShiftThreads,
                fused_block::kShiftSharedBytes};
  check_grid(plan.shift);
  plan.sums = sizes.B * plan.in.row_tiles * problem.dim;
  plan.shifts = sizes.B * plan.shift_slices * problem.dim;
  return plan;
}

namespace {

void describe(std::ostream& text, const char* name, const ProjectionPlan& plan) {
  text << "block, " << name << ", " << plan.depth << " to " << plan.cols
       << " channels, tensor cores: " << plan.grid.blocks << " blocks of " << plan.grid.threads << " threads, "
       << plan.grid.shared_bytes << " bytes of shared memory, tiles of " << plan.tile_rows << " pixels x "
       << plan.tile_cols << " channels, about " << static_cast<int64_t>(plan.estimated_cycles) << " model cycles\n";
}

}  // namespace

std::string explain(const FusedBlockPlan& plan) {
  std::ostringstream text;
  text << "block at inference: " << plan.launches() << " launches, workspace " << 4 * (plan.sums + plan.shifts)
       << " bytes\n";
  describe(text, "in-projection and sums of x", plan.in);
  text << explain(plan.pyramid);
  text << "block, pooled average, CUDA cores: " << plan.shift.blocks << " blocks of " << plan.shift.threads
       << " threads, " << plan.shift.shared_bytes << " bytes of shared memory\n";
  describe(text, "out-projection, shift and residual", plan.out);
  return text.str();
}

}  // namespace deltaconv::cuda

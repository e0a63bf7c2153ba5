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

// A tile and how many of them there are: of pixels of an image, and of channels.
struct ProjectionTiles {
  int32_t rows, cols;
  int64_t row_tiles, col_tiles;
};

// Makes this tile the best if it is faster and its shared memory is there, and says whether it did.
template <class Tile>
bool consider(const Sizes& sizes, int64_t depth, int64_t cols, const DeviceProperties& device,
              const ProjectionTiles& tiles, std::optional<ProjectionPlan>& best) {
  if (Tile::kSharedBytes > device.shared_per_block) return false;
  ProjectionPlan plan{{sizes.B * tiles.row_tiles * tiles.col_tiles, Tile::kThreads, Tile::kSharedBytes},
                      tiles.rows,
                      tiles.cols,
                      static_cast<int32_t>(tiles.row_tiles),
                      static_cast<int32_t>(tiles.col_tiles),
                      depth,
                      cols,
                      0};
  plan.estimated_cycles = projection_cycles<Tile>(plan, device);
  if (best && plan.estimated_cycles >= best->estimated_cycles) return false;
  best = plan;
  return true;
}

ProjectionPlan checked(const std::optional<ProjectionPlan>& best) {
  if (!best) throw std::runtime_error("block: no tile of its projections fits this GPU's shared memory");
  check_grid(best->grid);
  return *best;
}

ProjectionPlan projection_plan(const Sizes& sizes, int64_t depth, int64_t cols, const DeviceProperties& device) {
  std::optional<ProjectionPlan> best;
  fused_block::for_each_product_tile([&](auto tile) {
    using Tile = decltype(tile);
    const ProjectionTiles tiles{Tile::kRows, Tile::kCols, divide_up(sizes.H * sizes.W, Tile::kRows),
                                divide_up(cols, Tile::kCols)};
    consider<Tile>(sizes, depth, cols, device, tiles, best);
  });
  return checked(best);
}

// The grids that the in-projection can write for these stages; none where a stage's windows are not all of 1, 2 or 4
// pixels in a row, which its rectangles of pixels could not hold.
PlanarGrids planar_grids(const PlanProblem& problem) {
  const Sizes& sizes = problem.sizes;
  const auto is_planar = [&](int64_t factor) {
    return (factor == 1 || factor == 2 || factor == 4) && sizes.H % factor == 0 && sizes.W % factor == 0;
  };
  if (!std::all_of(problem.factors.begin(), problem.factors.end(), is_planar)) return {};
  PlanarGrids grids;
  for (int32_t bits = 0; bits <= PlanarGrids::kMostFactorBits; ++bits) {
    const int64_t factor = int64_t{1} << bits;
    if (std::find(problem.factors.begin(), problem.factors.end(), factor) == problem.factors.end()) continue;
    const ChannelPlanes planes(static_cast<int32_t>(sizes.H / factor), static_cast<int32_t>(sizes.W / factor), sizes);
    grids.at[grids.count++] = {bits, planes, grids.elements};
    grids.elements += planes.plane(sizes.B, 0);
  }
  return grids;
}

// The in-projection that writes `grids`, and their rectangles: those that are fewest, the widest of them.
ProjectionPlan planar_projection_plan(const Sizes& sizes, int64_t depth, const DeviceProperties& device,
                                      PlanarGrids& grids) {
  std::optional<ProjectionPlan> best;
  const int32_t factor_bits = grids.at[grids.count - 1].factor_bits;
  fused_block::for_each_planar_product_tile([&](auto tile) {
    using Tile = decltype(tile);
    ProjectionTiles tiles{Tile::kCols, Tile::kRows, 0, divide_up(sizes.C, Tile::kRows)};
    int32_t widest = 0;
    // Four pooled pixels are stored at once, and a thread's copies keep to a column of the rectangle.
    for (int32_t bits = std::max(3, factor_bits + 2); 1 << bits <= Tile::kThreads / (fused_block::kProductDepth / 8);
         ++bits) {
      const int64_t height = Tile::kCols >> bits;
      if (height % (int64_t{1} << factor_bits) != 0) continue;
      const int64_t count = divide_up(sizes.H, height) * divide_up(sizes.W, int64_t{1} << bits);
      if (tiles.row_tiles != 0 && count > tiles.row_tiles) continue;
      tiles.row_tiles = count;
      widest = bits;
    }
    if (!consider<Tile>(sizes, depth, sizes.C, device, tiles, best)) return;
    grids.width_bits = widest;
    grids.across = static_cast<int32_t>(divide_up(sizes.W, int64_t{1} << widest));
  });
  return checked(best);
}

}  // namespace

FusedBlockPlan fused_block_plan(const FusedBlockProblem& problem, const DeviceProperties& device) {
  const Sizes& sizes = problem.pyramid.sizes;
  FusedBlockPlan plan{};
  if (problem.pyramid.path != Path::kCudaCores && sizes.S <= kMaxStages) plan.planes = planar_grids(problem.pyramid);
  std::optional<LaunchPlan> planar;
  if (plan.planar()) planar = tensor_cores::planar_forward_launch(problem.pyramid, device);
  if (planar) {
    plan.in = planar_projection_plan(sizes, problem.dim, device, plan.planes);
    check_grid(planar->grid);
    plan.pyramid = {*planar};
  } else {
    plan.planes = {};
    plan.in = projection_plan(sizes, problem.dim, sizes.C, device);
    plan.pyramid = forward_plan(problem.pyramid, device);
  }
  plan.hidden = plan.planar() ? plan.planes.elements : sizes.B * sizes.H * sizes.W * sizes.C;
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
  if (plan.planar()) {
    text << "  writes planes of channels, " << plan.planes.elements << " values, in rectangles of "
         << (plan.in.tile_rows >> plan.planes.width_bits) << " x " << (1 << plan.planes.width_bits) << " pixels\n";
  }
  text << explain(plan.pyramid);
  text << "block, pooled average, CUDA cores: " << plan.shift.blocks << " blocks of " << plan.shift.threads
       << " threads, " << plan.shift.shared_bytes << " bytes of shared memory\n";
  describe(text, "out-projection, shift and residual", plan.out);
  return text.str();
}

}  // namespace deltaconv::cuda

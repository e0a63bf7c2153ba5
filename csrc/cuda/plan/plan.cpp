#include "cuda/plan/plan.h"

#include <algorithm>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace deltaconv::cuda {
namespace {

constexpr int64_t kReservedShared = 1024;  // of a block, by the system, from sm_80 on
constexpr int32_t kMaxBlocks = 32, kRegisters = 65536;

// Threads that a multiprocessor holds at once.
int32_t max_threads(const DeviceProperties& device) {
  const int32_t major = device.compute_capability / 10, minor = device.compute_capability % 10;
  return (major == 8 && minor != 0) || major == 12 ? 1536 : 2048;
}

// The banded matrices of small kernels are too sparse: from K = 7 on the tensor cores are ahead by their
// ceilings.
Road choose_road(const PlanProblem& problem, const DeviceProperties& device) {
  constexpr int64_t kSmallestBand = 7;
  if (problem.road) return *problem.road;
  return problem.sizes.K >= kSmallestBand && tensor_cores_take(problem, device) ? Road::kTensorCores : Road::kCudaCores;
}

}  // namespace

void check_grid(const Grid& grid) {
  if (grid.blocks > std::numeric_limits<int32_t>::max()) {
    throw std::runtime_error("x: needs " + std::to_string(grid.blocks) + " thread blocks, more than a CUDA grid holds");
  }
}

std::vector<LaunchPlan> forward_plan(const PlanProblem& problem, const DeviceProperties& device) {
  std::vector<LaunchPlan> launches;
  const auto stages = static_cast<int32_t>(problem.factors.size());
  const bool tensor_cores = choose_road(problem, device) == Road::kTensorCores;
  for (int32_t first = 0; first < stages; first += kMaxStages) {
    const int32_t count = std::min(kMaxStages, stages - first);
    if (tensor_cores) {
      launches.push_back(tensor_cores_forward(problem, device, first, count));
    } else {
      launches.push_back(cuda_cores_launch(problem, device, stages_of(problem, first, count), true));
    }
    check_grid(launches.back().grid);
  }
  return launches;
}

Stage untiled_stage(const PlanProblem& problem, int32_t index) {
  const auto axis = [&](int64_t size) {
    const int64_t factor = problem.factors[index];
    return Axis{static_cast<int32_t>(size), static_cast<int32_t>(size / factor), static_cast<int32_t>(factor)};
  };
  return {index, axis(problem.sizes.H), axis(problem.sizes.W), {}};
}

std::vector<Stage> stages_of(const PlanProblem& problem, int32_t first, int32_t count) {
  std::vector<Stage> stages;
  for (int32_t s = first; s < first + count; ++s) stages.push_back(untiled_stage(problem, s));
  std::stable_sort(stages.begin(), stages.end(),
                   [](const Stage& a, const Stage& b) { return a.rows.factor > b.rows.factor; });
  return stages;
}

int64_t order_blocks(Stages& stages, const Sizes& sizes, int32_t pairs) {
  int32_t cell_rows = BlockOrder::kMostCells, cell_cols = cell_rows;
  for (int32_t s = 0; s < stages.count; ++s) {
    cell_rows = std::min(cell_rows, stages.at[s].tiling.count_rows);
    cell_cols = std::min(cell_cols, stages.at[s].tiling.count_cols);
  }
  const int64_t channel_blocks = (sizes.C / 2 + pairs - 1) / pairs;
  int64_t blocks_of_cell = 0;
  BlockOrder& order = stages.order;
  for (int32_t s = 0; s < stages.count; ++s) {
    const Tiling& tiling = stages.at[s].tiling;
    BlockOrder::OfStage& of = order.of[s];
    of.rows = {tiling.count_rows / cell_rows, tiling.count_rows % cell_rows};
    of.cols = {tiling.count_cols / cell_cols, tiling.count_cols % cell_cols};
    const int64_t blocks = channel_blocks * of.rows.most() * of.cols.most();
    of.blocks = static_cast<uint32_t>(blocks);
    of.across = Divisor(static_cast<uint32_t>(of.cols.most()));
    blocks_of_cell += blocks;
  }
  const int64_t blocks_of_image = blocks_of_cell * cell_rows * cell_cols, blocks = blocks_of_image * sizes.B;
  if (blocks <= std::numeric_limits<int32_t>::max()) {  // or there is no launch: check_grid
    order.pairs = pairs;
    order.channel_blocks = Divisor(static_cast<uint32_t>(channel_blocks));
    order.blocks_of_cell = Divisor(static_cast<uint32_t>(blocks_of_cell));
    order.blocks_of_image = Divisor(static_cast<uint32_t>(blocks_of_image));
    order.cell_rows = Divisor(static_cast<uint32_t>(cell_rows));
    order.cell_cols = Divisor(static_cast<uint32_t>(cell_cols));
  }
  return blocks;
}

int64_t resident_blocks(const DeviceProperties& device, int32_t threads, int64_t shared_bytes, int32_t registers) {
  const int64_t by_shared = device.shared_per_multiprocessor / (shared_bytes + kReservedShared);
  const int64_t by_threads = max_threads(device) / threads;
  const int64_t by_registers = kRegisters / (threads * registers);
  return std::max<int64_t>(1, std::min({by_shared, by_threads, by_registers, int64_t{kMaxBlocks}}));
}

void fail_to_plan(const PlanProblem& problem, const DeviceProperties& device) {
  std::ostringstream message;
  message << "weight: K = " << problem.sizes.K << " does not fit into the " << device.shared_per_block
          << " bytes of shared memory that a block has on this GPU (sm_" << device.compute_capability << ")";
  throw std::runtime_error(message.str());
}

namespace {

const char* name_of(Road road) { return road == Road::kCudaCores ? "CUDA cores: " : "tensor cores: "; }

void describe(std::ostream& text, const Grid& grid) {
  text << grid.blocks << " blocks of " << grid.threads << " threads, " << grid.shared_bytes
       << " bytes of shared memory";
}

void describe(std::ostream& text, const Stages& stages) {
  for (int32_t s = 0; s < stages.count; ++s) {
    const Stage& stage = stages.at[s];
    const Tiling& tiling = stage.tiling;
    text << "  stage " << stage.index << ", factor " << stage.rows.factor << ": " << stage.rows.reduced << " x "
         << stage.cols.reduced << " in " << tiling.count_rows << " x " << tiling.count_cols << " tiles of "
         << tiling.rows << " x " << tiling.cols;
    if (tiling.band_rows > 0) text << ", " << tiling.band_rows << " input rows at a time";
    text << "\n";
  }
}

void describe(std::ostream& text, const LaunchPlan& launch) {
  text << name_of(launch.road);
  describe(text, launch.grid);
  text << ", " << launch.pairs << " channel pairs a block";
  if (launch.estimated_cycles > 0) text << ", about " << static_cast<int64_t>(launch.estimated_cycles) << " cycles";
  text << "\n";
  describe(text, launch.stages);
}

}  // namespace

std::string explain(const std::vector<LaunchPlan>& launches) {
  std::ostringstream text;
  for (const LaunchPlan& launch : launches) {
    text << "forward, ";
    describe(text, launch);
  }
  return text.str();
}

std::string explain(const BackwardPlan& plan) {
  std::ostringstream text;
  text << "backward, through the gate, ";
  describe(text, plan.gate);
  if (plan.reduced.stages.count > 0) {
    text << "backward, inputs of reduced stages, ";
    describe(text, plan.reduced);
  }
  text << "backward, x, ";
  describe(text, plan.input);
  text << "backward, weight and bias, " << name_of(plan.weight.road);
  describe(text, plan.weight.grid);
  text << ", " << plan.weight.partitions << " partial sums\n";
  describe(text, plan.weight.stages);
  text << "backward, workspace: " << plan.workspace.size * 4 << " bytes\n";
  return text.str();
}

}  // namespace deltaconv::cuda

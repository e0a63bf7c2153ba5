#include "cuda/plan/plan.h"

#include <algorithm>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace deltaconv::cuda {
namespace {

constexpr int64_t kReservedShared = 1024;  // bytes that the system takes of each CTA, from sm_80 on
constexpr int32_t kMaxCtas = 32, kRegisters = 65536;

// Threads that a multiprocessor holds at once.
int32_t max_threads(const DeviceProperties& device) {
  const int32_t major = device.compute_capability / 10, minor = device.compute_capability % 10;
  return (major == 8 && minor != 0) || major == 12 ? 1536 : 2048;
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
  for (int32_t first = 0; first < stages; first += kMaxStages) {
    const int32_t count = std::min(kMaxStages, stages - first);
    std::optional<LaunchPlan> launch;
    if (problem.path != Path::kCudaCores) launch = tensor_cores::forward_launch(problem, device, first, count);
    if (problem.path == Path::kTensorCores && !launch) fail_to_plan(problem, device);
    if (!launch) launch = cuda_cores::convolution_launch(problem, device, stages_of(problem, first, count), true);
    check_grid(launch->grid);
    launches.push_back(*launch);
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

int64_t order_ctas(Stages& stages, const Sizes& sizes, int32_t pairs) {
  int32_t cell_rows = CtaOrder::kMostCells, cell_cols = cell_rows;
  for (int32_t s = 0; s < stages.count; ++s) {
    cell_rows = std::min(cell_rows, stages.at[s].tiling.count_rows);
    cell_cols = std::min(cell_cols, stages.at[s].tiling.count_cols);
  }
  const int64_t channel_blocks = (sizes.C / 2 + pairs - 1) / pairs;
  int64_t ctas_of_cell = 0;
  CtaOrder& order = stages.order;
  for (int32_t s = 0; s < stages.count; ++s) {
    const Tiling& tiling = stages.at[s].tiling;
    CtaOrder::StageOrder& stage = order.stages[s];
    stage.rows = {tiling.count_rows / cell_rows, tiling.count_rows % cell_rows};
    stage.cols = {tiling.count_cols / cell_cols, tiling.count_cols % cell_cols};
    const int64_t ctas = channel_blocks * stage.rows.most() * stage.cols.most();
    stage.ctas = static_cast<uint32_t>(ctas);
    stage.across = Divisor(static_cast<uint32_t>(stage.cols.most()));
    ctas_of_cell += ctas;
  }
  const int64_t ctas_of_image = ctas_of_cell * cell_rows * cell_cols, ctas = ctas_of_image * sizes.B;
  if (ctas <= std::numeric_limits<int32_t>::max()) {  // else check_grid throws
    order.pairs = pairs;
    order.channel_blocks = Divisor(static_cast<uint32_t>(channel_blocks));
    order.ctas_of_cell = Divisor(static_cast<uint32_t>(ctas_of_cell));
    order.ctas_of_image = Divisor(static_cast<uint32_t>(ctas_of_image));
    order.cell_rows = Divisor(static_cast<uint32_t>(cell_rows));
    order.cell_cols = Divisor(static_cast<uint32_t>(cell_cols));
  }
  return ctas;
}

int64_t resident_ctas(const DeviceProperties& device, int32_t threads, int64_t shared_bytes, int32_t registers) {
  const int64_t by_shared = device.shared_per_multiprocessor / (shared_bytes + kReservedShared);
  const int64_t by_threads = max_threads(device) / threads;
  const int64_t by_registers = kRegisters / (threads * registers);
  return std::max<int64_t>(1, std::min({by_shared, by_threads, by_registers, int64_t{kMaxCtas}}));
}

void fail_to_plan(const PlanProblem& problem, const DeviceProperties& device) {
  std::ostringstream message;
  message << "weight: K = " << problem.sizes.K << " does not fit into the " << device.shared_per_block
          << " bytes of shared memory that a block has on this GPU (sm_" << device.compute_capability << ")";
  throw std::runtime_error(message.str());
}

namespace {

const char* name_of(Path path) { return path == Path::kCudaCores ? "CUDA cores: " : "tensor cores: "; }

void describe(std::ostream& text, const Grid& grid) {
  text << grid.blocks << " blocks of " << grid.threads << " threads, " << grid.shared_bytes
       << " bytes of shared memory";
}

// `cycles` of a block of each stage, or null.
void describe(std::ostream& text, const Stages& stages, const CtaCycles* cycles) {
  for (int32_t s = 0; s < stages.count; ++s) {
    const Stage& stage = stages.at[s];
    const Tiling& tiling = stage.tiling;
    text << "  stage " << stage.index << ", factor " << stage.rows.factor << ": " << stage.rows.reduced << " x "
         << stage.cols.reduced << " in " << tiling.count_rows << " x " << tiling.count_cols << " tiles of "
         << tiling.rows << " x " << tiling.cols;
    if (tiling.band_rows > 0) text << ", " << tiling.band_rows << " input rows at a time";
    if (cycles) text << ", a block alone " << static_cast<int64_t>(cycles[s].alone) << " model cycles";
    text << "\n";
  }
}

void describe(std::ostream& text, const LaunchPlan& launch) {
  text << name_of(launch.path);
  describe(text, launch.grid);
  text << ", " << launch.pairs << " channel pairs a block, " << launch.resident
       << " blocks at once on a multiprocessor";
  if (launch.estimated_cycles > 0)
    text << ", about " << static_cast<int64_t>(launch.estimated_cycles) << " model cycles";
  text << "\n";
  describe(text, launch.stages, launch.cycles);
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
  text << "backward, weight and bias, " << name_of(plan.weight.path);
  describe(text, plan.weight.grid);
  text << ", " << plan.weight.partitions << " partial sums\n";
  describe(text, plan.weight.stages, nullptr);
  text << "backward, workspace: " << plan.workspace.size * 4 << " bytes\n";
  return text.str();
}

}  // namespace deltaconv::cuda

// The launch plan: pure functions from the problem and the device's properties to what is launched. No CUDA
// needed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cuda/device/types.h"
#include "cuda/stages.h"
#include "pyramid.h"

namespace deltaconv::cuda {

enum class ElementType { kFloat32, kFloat16, kBFloat16 };

struct DeviceProperties {
  int32_t compute_capability;  // 90 for sm_90
  int32_t multiprocessors;
  int64_t shared_per_block, shared_per_multiprocessor;  // bytes
};

enum class Road { kCudaCores, kTensorCores };

struct PlanProblem {
  Sizes sizes;
  std::vector<int64_t> factors;
  ElementType type;
  std::optional<Road> road = std::nullopt;  // none: the one that should be faster
};

// One launch: up to kMaxStages stages.
struct LaunchPlan {
  Road road;
  Grid grid;
  int32_t pairs;  // of channels that a block takes
  Stages stages;
  double estimated_cycles;  // of the cost model that chose it; 0 where there was no choice
};

// The weight gradient's launch. A block takes one partition of a stage's tiles, kLanes channels and some of
// the tasks that the kernel's rows and columns are divided into (register_tile.h).
struct WeightPlan {
  Grid grid;
  Stages stages;
  int32_t partitions;               // of a stage's tiles, by the shape alone: each has a partial sum
  int32_t tasks_per_block, slices;  // warps that share a task take every slices-th row
};

// Offsets and size of the workspace, in floats.
struct Workspace {
  int64_t grad_a[kMaxStages];  // gradient of every stage's convolution, [B, h, w, C] each
  int64_t grad_d[kMaxStages];  // gradient of every reduced stage's input, likewise
  int64_t partials;            // [partitions, S, K * K + 1, C], the last tap is the bias
  int64_t size;
};

struct BackwardPlan {
  LaunchPlan gate;     // writes grad_a
  LaunchPlan reduced;  // writes grad_d; no stages where none is reduced
  LaunchPlan input;    // its one stage is x's own grid
  WeightPlan weight;
  Workspace workspace;
};

// Throws where there are more than kMaxStages.
BackwardPlan backward_plan(const PlanProblem& problem, const DeviceProperties& device);

std::vector<LaunchPlan> forward_plan(const PlanProblem& problem, const DeviceProperties& device);

// Whether the tensor cores' kernels can take this problem, and the plan of one launch; plan_tensor_cores.cpp.
bool tensor_cores_take(const PlanProblem& problem, const DeviceProperties& device);
LaunchPlan tensor_cores_forward(const PlanProblem& problem, const DeviceProperties& device,
                                int32_t first_stage, int32_t count);

// The launch of a convolution of these stages on CUDA cores, which take everything; plan_cuda_cores.cpp.
// `upsampled`: the results of reduced stages are.
LaunchPlan cuda_cores_launch(const PlanProblem& problem, const DeviceProperties& device,
                             const std::vector<Stage>& stages, bool upsampled);

// The stage's grid, not cut into tiles yet.
Stage untiled_stage(const PlanProblem& problem, int32_t index);

// Stages first … first + count - 1, the most reduced first: their blocks read and write the most pixels, so
// that they take longest, and would be the launch's end if they came last.
std::vector<Stage> stages_of(const PlanProblem& problem, int32_t first, int32_t count);

// Sets the order of a launch's blocks, each of `pairs` channel pairs, and returns their number.
int64_t order_blocks(Stages& stages, const Sizes& sizes, int32_t pairs);

// Of blocks of `threads` threads and `shared_bytes`, how many run on a multiprocessor at once, if a thread
// takes `registers`.
int64_t resident_blocks(const DeviceProperties& device, int32_t threads, int64_t shared_bytes,
                        int32_t registers);

// Throws where a CUDA grid cannot be that large.
void check_grid(const Grid& grid);

// Throws: no tile of this problem fits the device's shared memory.
[[noreturn]] void fail_to_plan(const PlanProblem& problem, const DeviceProperties& device);

// For people: road, tiles, blocks, threads, shared memory of every launch.
std::string explain(const std::vector<LaunchPlan>& launches);
std::string explain(const BackwardPlan& plan);

}  // namespace deltaconv::cuda

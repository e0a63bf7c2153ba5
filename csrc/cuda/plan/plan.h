// The launch plan: pure functions from the problem and the device's properties to what is launched. No CUDA
// needed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cuda/device/types.h"
#include "cuda/layout/stages.h"
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
  // Of the tensor cores' tiles of the weight gradient, likewise.
  std::optional<int32_t> weight_columns = std::nullopt;
};

// One launch: up to kMaxStages stages.
struct LaunchPlan {
  Road road;
  Grid grid;
  int32_t pairs;  // of channels that a block takes
  Stages stages;
  double estimated_cycles;  // of the cost model that chose it; 0 where there was no choice
};

// The weight gradient's launch. A block takes one partition of a stage's tiles, and on CUDA cores kLanes
// channels and some of the tasks that the kernel's rows and columns are divided into (register_tile.h), on
// tensor cores a channel with each warp (weight_band.h), whose tiles are counted over all images.
struct WeightPlan {
  Road road;
  Grid grid;
  Stages stages;
  int32_t partitions;                    // of a stage's tiles, by the shape alone: each has a partial sum
  int32_t stage_partitions[kMaxStages];  // those that have tiles
  int32_t tasks_per_block, slices;       // CUDA cores: warps that share a task take every slices-th row
  int32_t input_rows;                    // tensor cores: that a buffer holds
};

// Offsets and size of the workspace, in floats. On CUDA cores a stage's gradients are [B, h, w, C] float32;
// on tensor cores they are planes, with scales in float16, and the stage's inputs are kept likewise
// (backward_workspace.h).
struct Workspace {
  int64_t grad_a[kMaxStages];  // gradients of every stage's convolution
  int64_t scales[kMaxStages], inputs[kMaxStages];
  int64_t grad_d[kMaxStages];  // gradients of the inputs of the stages of BackwardPlan::reduced, [B, h, w, C]
  int64_t partials;            // [partitions, S, K * K + 1, C], the last tap is the bias
  int64_t size;
};

struct BackwardPlan {
  LaunchPlan gate;     // writes grad_a; its road is the whole pass's
  LaunchPlan reduced;  // writes grad_d of the reduced stages at least; may have none
  LaunchPlan input;    // its one stage is x's own grid; on tensor cores the stage convolved there, or -1
  WeightPlan weight;
  Workspace workspace;
};

// Throws where there are more than kMaxStages.
BackwardPlan backward_plan(const PlanProblem& problem, const DeviceProperties& device);

std::vector<LaunchPlan> forward_plan(const PlanProblem& problem, const DeviceProperties& device);

// Whether the tensor cores' kernels can take this problem, and the plan of one launch; tensor_cores.cpp.
bool tensor_cores_take(const PlanProblem& problem, const DeviceProperties& device);
LaunchPlan tensor_cores_forward(const PlanProblem& problem, const DeviceProperties& device, int32_t first_stage,
                                int32_t count);

// What an adjoint convolution writes: bytes of a result, which `added` float32 values are added to.
struct AdjointResults {
  double bytes, added;
};

// The launches of the backward pass on tensor cores: through the gate; adjoint convolutions. None where no
// tile fits; backward_tensor_cores.cpp.
std::optional<LaunchPlan> tensor_cores_gate(const PlanProblem& problem, const DeviceProperties& device,
                                            const std::vector<Stage>& stages);
std::optional<LaunchPlan> tensor_cores_adjoint(const PlanProblem& problem, const DeviceProperties& device,
                                               const std::vector<Stage>& stages, const AdjointResults& results);

// The weight gradient's launch on tensor cores. None where no tile fits; weight_tensor_cores.cpp.
std::optional<WeightPlan> tensor_cores_weight(const PlanProblem& problem, const DeviceProperties& device);

// The launch of a convolution of these stages on CUDA cores, which take everything; cuda_cores.cpp.
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
int64_t resident_blocks(const DeviceProperties& device, int32_t threads, int64_t shared_bytes, int32_t registers);

// Throws where a CUDA grid cannot be that large.
void check_grid(const Grid& grid);

// Throws: no tile of this problem fits the device's shared memory.
[[noreturn]] void fail_to_plan(const PlanProblem& problem, const DeviceProperties& device);

// For people: road, tiles, blocks, threads, shared memory of every launch.
std::string explain(const std::vector<LaunchPlan>& launches);
std::string explain(const BackwardPlan& plan);

}  // namespace deltaconv::cuda

// The launch plan: pure functions from the problem and the device's properties to what is launched. This folder needs
// no CUDA and is part of the CPU library too, so that users can read the plan on any machine.
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

enum class Path { kCudaCores, kTensorCores };

// The CTAs of convolutions: their threads, and on tensor cores their tile. In the launch through the gate, reduced
// stages have tiles of their own.
struct CtaChoice {
  int32_t rows, cols, threads, reduced_rows, reduced_cols;
};

struct PlanProblem {
  Sizes sizes;
  std::vector<int64_t> factors;
  ElementType type;
  std::optional<Path> path = std::nullopt;  // none: the path that should be faster
  // Columns of the weight gradient's tiles on tensor cores; none: the columns that should be faster.
  std::optional<int32_t> weight_columns = std::nullopt;
  std::optional<CtaChoice> cta = std::nullopt;  // none: those that should be fastest
};

// Model cycles of a CTA: alone on its multiprocessor, and of its multiprocessor's unit that it keeps busy the longest.
struct CtaCycles {
  double alone, busy;
};

// One launch of up to kMaxStages stages.
struct LaunchPlan {
  Path path;
  Grid grid;
  int32_t pairs;  // channel pairs of a CTA
  Stages stages;
  int64_t resident;              // CTAs that a multiprocessor runs at once
  CtaCycles cycles[kMaxStages];  // a CTA's, for each of stages.at, by the cost model that chose the tiles
  double estimated_cycles;       // the launch's; 0 where there is nothing to launch
};

// The weight gradient's launch. A CTA takes one partition of a stage's tiles. On CUDA cores it takes kLanes channels
// and some of the tasks that the kernel's rows and columns are divided into (register_tile.h). On tensor cores each of
// its warps takes a channel (weight_band.h), and tiles are counted over all images.
struct WeightPlan {
  Path path;
  Grid grid;
  Stages stages;
  int32_t partitions;                    // parts of a stage's tiles, by the shape alone; each has a partial sum
  int32_t stage_partitions[kMaxStages];  // for each stage, the partitions that have tiles
  int32_t tasks_per_cta, slices;         // on CUDA cores: warps that share a task take every slices-th row
  int32_t input_rows;                    // on tensor cores: rows of inputs that a buffer holds
};

// Offsets and size of the workspace, in floats. On CUDA cores the gradients of a stage are [B, h, w, C]
// float32. On tensor cores they are planes, with scales in float16, and the inputs of the stage are kept as
// planes too (backward_workspace.h).
struct Workspace {
  int64_t grad_a[kMaxStages];  // gradients of every stage's convolution
  int64_t scales[kMaxStages], inputs[kMaxStages];
  int64_t grad_d[kMaxStages];  // gradients of the inputs of the stages of BackwardPlan::reduced, [B, h, w, C]
  int64_t partials;            // [partitions, S, K * K + 1, C], the last tap is the bias
  int64_t size;
};

struct BackwardPlan {
  LaunchPlan gate;     // writes grad_a; its path is that of the whole pass
  LaunchPlan reduced;  // writes grad_d, at least of all reduced stages; it may have no stage
  LaunchPlan
      input;  // has one stage, x's own grid; its index is that of the stage convolved there, on tensor cores, or -1
  WeightPlan weight;
  Workspace workspace;
};

// Throws where there are more than kMaxStages stages.
BackwardPlan backward_plan(const PlanProblem& problem, const DeviceProperties& device);

std::vector<LaunchPlan> forward_plan(const PlanProblem& problem, const DeviceProperties& device);

// What an adjoint convolution writes: bytes of each result, and how many float32 values it adds to the result first.
struct AdjointResults {
  double bytes, added;
};

// The stage's grid, not yet cut into tiles.
Stage untiled_stage(const PlanProblem& problem, int32_t index);

// Stages first to first + count - 1, the most reduced first. CTAs of reduced stages read and write the most pixels and
// take longest; they would be the launch's end if they came last.
std::vector<Stage> stages_of(const PlanProblem& problem, int32_t first, int32_t count);

// Sets the order of a launch's CTAs, each of `pairs` channel pairs, and returns their number.
int64_t order_ctas(Stages& stages, const Sizes& sizes, int32_t pairs);

// How many CTAs of `threads` threads and `shared_bytes` run on a multiprocessor at once, if a thread takes `registers`.
int64_t resident_ctas(const DeviceProperties& device, int32_t threads, int64_t shared_bytes, int32_t registers);

// Throws where a CUDA grid cannot be that large.
void check_grid(const Grid& grid);

// Throws: no tile of this problem fits the device's shared memory.
[[noreturn]] void fail_to_plan(const PlanProblem& problem, const DeviceProperties& device);

namespace cuda_cores {  // which take every problem

// The launch of a convolution of these stages. `upsampled`: the results of reduced stages are upsampled.
LaunchPlan convolution_launch(const PlanProblem& problem, const DeviceProperties& device,
                              const std::vector<Stage>& stages, bool upsampled);
WeightPlan weight_launch(const PlanProblem& problem, const DeviceProperties& device);

}  // namespace cuda_cores

namespace tensor_cores {  // whose functions return nothing where no tile fits the device's shared memory

// The forward's launch of `count` stages from `first_stage` on.
std::optional<LaunchPlan> forward_launch(const PlanProblem& problem, const DeviceProperties& device,
                                         int32_t first_stage, int32_t count);

// The forward's launch of all stages where a fused block's in-projection writes channel planes.
std::optional<LaunchPlan> planar_forward_launch(const PlanProblem& problem, const DeviceProperties& device);

// The launches of the backward pass: through the gate, adjoint convolutions, the weight gradient.
std::optional<LaunchPlan> gate_launch(const PlanProblem& problem, const DeviceProperties& device,
                                      const std::vector<Stage>& stages);
std::optional<LaunchPlan> adjoint_launch(const PlanProblem& problem, const DeviceProperties& device,
                                         const std::vector<Stage>& stages, const AdjointResults& results);
std::optional<WeightPlan> weight_launch(const PlanProblem& problem, const DeviceProperties& device);

}  // namespace tensor_cores

// Text for people: path, tiles, CTAs, threads and shared memory of every launch.
std::string explain(const std::vector<LaunchPlan>& launches);
std::string explain(const BackwardPlan& plan);

}  // namespace deltaconv::cuda

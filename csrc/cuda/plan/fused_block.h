// The plan of the whole block at inference: four launches. Pure functions; no CUDA needed.
#pragma once

#include "cuda/plan/plan.h"

namespace deltaconv::cuda {

// x is [B, H, W, dim]; the pyramid's C is the width inside the block, inter.
struct BlockProblem {
  PlanProblem pyramid;
  int64_t dim;
};

// A 1 x 1 convolution of every image.
struct ProjectionPlan {
  Grid grid;
  int32_t tile_rows, tile_cols;  // pixels and output channels of a block of threads
  int32_t row_tiles, col_tiles;  // of an image
  int64_t depth, cols;
  double estimated_cycles;
};

struct BlockPlan {
  ProjectionPlan in;
  std::vector<LaunchPlan> pyramid;
  Grid shift;
  int32_t shift_slices, shift_output_tiles;
  ProjectionPlan out;
  int64_t sums, shifts;  // workspace in floats: the mean's partial sums, the shift's

  int64_t launches() const { return 3 + static_cast<int64_t>(pyramid.size()); }
};

// Throws where a grid cannot be that large.
BlockPlan block_plan(const BlockProblem& problem, const DeviceProperties& device);

std::string explain(const BlockPlan& plan);

}  // namespace deltaconv::cuda

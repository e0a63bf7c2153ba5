// The plan of a fused block, a whole ΔConvBlock at inference: three launches and those of the pyramid. Pure functions,
// which need no CUDA.
#pragma once

#include "cuda/layout/channel_planes.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda {

// x is [B, H, W, dim]; the pyramid's C is the width inside the block, inter.
struct FusedBlockProblem {
  PlanProblem pyramid;
  int64_t dim;
};

// A 1 x 1 convolution of every image.
struct ProjectionPlan {
  Grid grid;
  int32_t tile_rows, tile_cols;  // pixels and output channels of a CTA
  int32_t row_tiles, col_tiles;  // tiles of an image
  int64_t depth, cols;
  double estimated_cycles;
};

struct FusedBlockPlan {
  ProjectionPlan in;
  // What the in-projection writes: planes of channels, or pixels ([B, H, W, C]) where there are no grids.
  PlanarGrids planes;
  std::vector<LaunchPlan> pyramid;
  Grid shift;
  int32_t shift_slices, shift_output_tiles;
  ProjectionPlan out;
  int64_t hidden;        // values of what the in-projection writes
  int64_t sums, shifts;  // floats of workspace: the partial sums of the mean, and of the shift

  bool planar() const { return planes.count > 0; }
  int64_t launches() const { return 3 + static_cast<int64_t>(pyramid.size()); }
};

// Throws where a grid cannot be that large.
FusedBlockPlan fused_block_plan(const FusedBlockProblem& problem, const DeviceProperties& device);

std::string explain(const FusedBlockPlan& plan);

}  // namespace deltaconv::cuda

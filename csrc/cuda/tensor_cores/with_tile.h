// Selects the kernel that was compiled for the tile of a plan.
#pragma once

#include "cuda/layout/banded_tile.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda::tensor_cores {

// Calls launch with the BandedTile of a plan all of whose stages have one.
template <class Launch>
void with_banded_tile(int64_t K, const LaunchPlan& plan, const Launch& launch) {
  with_banded_tile(K, plan.stages.at[0].tiling, launch);
}

}  // namespace deltaconv::cuda::tensor_cores

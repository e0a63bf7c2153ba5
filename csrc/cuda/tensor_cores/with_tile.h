// Selects the kernel that was compiled for the tile of a plan.
#pragma once

#include "cuda/layout/banded_tile.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda::tensor_cores {

// Calls launch with the BandedTile of the plan.
template <class Launch>
void with_banded_tile(int64_t K, const LaunchPlan& plan, const Launch& launch) {
  const Tiling& tiling = plan.stages.at[0].tiling;
  for_each_banded_tile(K, [&](auto banded) {
    if (tiling.rows == banded.kRows && tiling.cols == banded.kCols) launch(banded);
  });
}

}  // namespace deltaconv::cuda::tensor_cores

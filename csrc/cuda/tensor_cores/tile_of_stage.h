// One kernel for all tiles of a band: each stage of a launch has tiles of its own.
#pragma once

#include "cuda/device/device.h"
#include "cuda/layout/banded_tile.h"

namespace deltaconv::cuda::tensor_cores {

// Calls compute with the BandedTile that the stage is cut into, the same for all threads of a CTA.
template <int kBand, class Compute>
DELTACONV_DEVICE void with_tile_of(const Stage& stage, const Compute& compute) {
  using Small = BandedTile<kBand, 1, 2>;
  using Tall = BandedTile<kBand, 2, 2>;
  if (stage.tiling.rows == Small::kRows) {
    compute(Small());
  } else if (kBand == 4 || stage.tiling.cols == Tall::kCols) {
    compute(Tall());
  } else if constexpr (kBand < 4) {
    compute(BandedTile<kBand, 2, 4>());
  }
}

}  // namespace deltaconv::cuda::tensor_cores

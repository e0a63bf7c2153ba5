// How the flipped convolutions of the backward pass divide their work on tensor cores: facts that the plan and the
// kernel share. A CTA takes single channels where the forward takes pairs, and so half its shared memory: two CTAs fit
// a multiprocessor, and one loads while the other multiplies.
//
// The shared memory of a CTA holds a plane for each channel, in the order of banded_slot, which the channel's float32
// results replace; then the flipped filters. banded_tile.h explains both layouts and their banks.
#pragma once

#include "cuda/layout/banded_tile.h"

namespace deltaconv::cuda::tensor_cores {

// Channels of a CTA: a pixel has 32 bytes of them, one sector.
inline constexpr int kAdjointChannels = 16;

template <class Banded>
struct AdjointTile {
  static DELTACONV_ANYWHERE int plane_bytes(int K) {
    const int plane = Banded::plane_elements(K) * 2, results = Banded::kRows * Banded::kResultPitch * 4;
    return plane_distance(plane > results ? plane : results);
  }
  static DELTACONV_ANYWHERE int64_t shared_bytes(int K) {
    return int64_t{kAdjointChannels} * (plane_bytes(K) + Banded::filter_words(K) * 4);
  }
};

}  // namespace deltaconv::cuda::tensor_cores

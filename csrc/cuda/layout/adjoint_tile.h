// How the flipped convolutions of the backward pass lay out their work on tensor cores: facts that the
// plan and the kernel share. A block takes single channels instead of the forward's pairs, and so half its
// shared memory: two blocks fit a multiprocessor, one loads while the other multiplies.
//
// Shared memory of a block: a plane for each channel, in the order of banded_slot, replaced by its float32
// results; then the flipped filters. Layouts and banks are those of banded_tile.h.
#pragma once

#include "cuda/layout/banded_tile.h"

namespace deltaconv::cuda {

// Channels of a block: a sector of 32 bytes of a pixel.
inline constexpr int kAdjointChannels = 16;

template <class Banded>
struct AdjointTile {
  static DELTACONV_ANYWHERE int plane_bytes(int K) {
    const int plane = Banded::plane_elements(K) * 2, results = Banded::kRows * Banded::kResultPitch * 4;
    const int bytes = plane > results ? plane : results;
    return bytes + (64 - bytes % 128 + 128) % 128;
  }
  static DELTACONV_ANYWHERE int64_t shared_bytes(int K) {
    return int64_t{kAdjointChannels} * (plane_bytes(K) + Banded::filter_words(K) * 4);
  }
};

}  // namespace deltaconv::cuda

// The convolution of one stage, as forward and backward start with it, and the exchange of its halves between lanes.
#pragma once

#include "cuda/cuda_cores/convolve.h"
#include "cuda/frame/tile.h"

namespace deltaconv::cuda::cuda_cores {

// Half of a register tile's rows, with both halves of the channels: a lane below 16 has rows 0 and 1 of channel c, the
// lane 16 above it rows 2 and 3.
//
//   before     lane 3: u, rows 0 1 2 3    lane 19: v, rows 0 1 2 3
//   after      lane 3: u v, rows 0 1      lane 19: u v, rows 2 3
struct Pairs {
  float u[kTileH / 2][kTileW], v[kTileH / 2][kTileW];
};

DELTACONV_DEVICE int32_t first_pair_row() { return lane_index() < kPairs ? 0 : kTileH / 2; }

DELTACONV_DEVICE Pairs exchange_halves(const RegisterTile& sums) {
  const bool has_u = lane_index() < kPairs;
  Pairs pairs;
  DELTACONV_UNROLL
  for (int i = 0; i < kTileH / 2; ++i) {
    DELTACONV_UNROLL
    for (int n = 0; n < kTileW; ++n) {
      const float above = sums[i][n], below = sums[kTileH / 2 + i][n];
      const float received = shuffle_xor(has_u ? below : above, kPairs);
      pairs.u[i][n] = has_u ? above : received;
      pairs.v[i][n] = has_u ? received : below;
    }
  }
  return pairs;
}

// The convolution of one stage at the CTA's tile, with bias.
template <int kKernel, class T>
DELTACONV_DEVICE void convolve_stage(const Problem<T>& problem, const Tile& tile, float* shared, RegisterTile& sums) {
  const Stage& stage = problem.stages.at[tile.stage];
  const Sizes& sizes = problem.sizes;
  const auto source =
      source_of(problem.x, sizes, tile.image, tile.channel, kPairs, problem.vectors, stage.rows, stage.cols);
  const auto filters = filter_source(problem.weight, sizes, stage.index, tile.channel, kPairs, problem.vectors);
  const int in_half = lane_index() % kPairs;
  float bias = 0.0f;
  if (problem.bias && in_half < source.channels) {
    const int64_t half = lane_index() / kPairs * (sizes.C / 2);
    bias = to_float(problem.bias[stage.index * sizes.C + half + tile.channel + in_half]);
  }
  DELTACONV_UNROLL
  for (auto& row : sums) {
    DELTACONV_UNROLL
    for (float& sum : row) sum = bias;
  }
  convolve_tile<kKernel, false>(source, filters, stage.tiling, tile.row, tile.col, shared, sums);
}

}  // namespace deltaconv::cuda::cuda_cores

// The whole pyramid in one launch on CUDA cores: pooling, convolutions, gate, upsampling, residual, slice of
// the result.
#pragma once

#include "cuda/cuda_cores/convolve.h"
#include "cuda/cuda_cores/kernel_sizes.h"
#include "cuda/cuda_cores/launch.h"
#include "cuda/frame/gate.h"
#include "cuda/frame/output.h"

namespace deltaconv::cuda {

// Half of a register tile's rows with both halves of the channels: a lane below 16 has rows 0 and 1 of
// channel c, the lane 16 above it rows 2 and 3.
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

// The convolution of one stage at the block's tile, with bias.
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

template <class T, int kKernel>
struct PyramidForward {
  static constexpr int kMaxThreads = cuda::kMaxThreads, kMinBlocks = 2;

  static DELTACONV_DEVICE void run(const ForwardArguments<T>& arguments) {
    const Problem<T>& problem = arguments.problem;
    const Tile tile = locate_tile(problem.stages);
    if (!tile.exists) return;
    const Stage& stage = problem.stages.at[tile.stage];
    float* shared = reinterpret_cast<float*>(shared_memory());
    RegisterTile sums;
    convolve_stage<kKernel>(problem, tile, shared, sums);

    const Pairs pairs = exchange_halves(sums);
    const Sink<T> sink = sink_of(arguments, tile, kPairs);
    const WarpTile mine = warp_tile(stage.tiling);
    const int32_t first_row = mine.row + first_pair_row();
    const int channel = lane_index() % kPairs;
    const bool reduced = stage.rows.factor != 1;
    const auto exists = [&](int i, int n) {
      return tile.row + first_row + i < stage.rows.reduced && tile.col + mine.col + n < stage.cols.reduced &&
             channel < sink.channels;
    };
    float gated[kTileH / 2][kTileW];
    DELTACONV_UNROLL
    for (int i = 0; i < kTileH / 2; ++i) {
      DELTACONV_UNROLL
      for (int n = 0; n < kTileW; ++n) {
        gated[i][n] = apply_gate(problem.gate, problem.gate_scale, pairs.u[i][n], pairs.v[i][n]);
        if (!reduced && exists(i, n)) {
          gated[i][n] += sink.residual_at(tile.row + first_row + i, tile.col + mine.col + n, channel);
        }
      }
    }
    if (reduced) sync_block();
    DELTACONV_UNROLL
    for (int i = 0; i < kTileH / 2; ++i) {
      DELTACONV_UNROLL
      for (int n = 0; n < kTileW; ++n) {
        const int32_t row = first_row + i, col = mine.col + n;
        if (reduced) {
          shared[(row * stage.tiling.cols + col) * kPairs + channel] = gated[i][n];
        } else if (exists(i, n)) {
          sink.store(tile.row + row, tile.col + col, channel, gated[i][n]);
        }
      }
    }
    if (reduced) {
      sync_block();
      store_upsampled<kPairs>(sink, stage, tile, [&](int32_t row, int32_t col, int first, auto& values) {
        const float* from = shared + (row * stage.tiling.cols + col) * kPairs + first;
        DELTACONV_UNROLL
        for (int e = 0; e < Sink<T>::kVector; e += 4) {
          const Quad quad = load16(from + e);
          DELTACONV_UNROLL
          for (int n = 0; n < 4; ++n) values[e + n] = bits_to_float(quad.words[n]);
        }
      });
    }
  }
};

template <class T>
void launch_cuda_cores_forward(const LaunchPlan& plan, const ForwardArguments<T>& arguments, Stream stream) {
  with_kernel_size(arguments.problem.sizes.K, [&](auto kernel) {
    launch<PyramidForward<T, decltype(kernel)::value>>(plan.grid, arguments, stream);
  });
}

}  // namespace deltaconv::cuda

// The whole pyramid in one launch on CUDA cores: pooling, convolutions, gate, upsampling, residual, slice
// of the result.
#pragma once

#include "cuda/cuda_cores/stage.h"
#include "cuda/frame/gate.h"
#include "cuda/frame/output.h"

namespace deltaconv::cuda::cuda_cores {

template <class T, int kKernel>
struct PyramidForward {
  static constexpr int kMaxThreads = cuda_cores::kMaxThreads, kMinBlocks = 2;

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

}  // namespace deltaconv::cuda::cuda_cores

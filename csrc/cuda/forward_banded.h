// The whole pyramid in one launch on tensor cores, for storage types of 16 bits.
#pragma once

#include "cuda/banded.h"
#include "cuda/gate.h"
#include "cuda/launch.h"
#include "cuda/output.h"

namespace deltaconv::cuda {

template <class T, class Banded>
struct PyramidForwardBanded {
  static constexpr int kMaxThreads = kBandedThreads, kMinBlocks = 1;

  static DELTACONV_DEVICE void run(const ForwardArguments<T>& arguments) {
    const Problem<T>& problem = arguments.problem;
    const Tile tile = locate_tile(problem.stages, problem.sizes, kBandedPairs);
    if (!tile.exists) return;
    const Stage& stage = problem.stages.at[tile.stage];
    const auto K = static_cast<int>(problem.sizes.K);
    const int pair_bytes = Banded::pair_bytes(K);
    std::byte* planes = shared_memory();
    auto* filters = reinterpret_cast<uint32_t*>(planes + kBandedPairs * pair_bytes);
    load_filters<T, Banded>(filter_source(problem.weight, problem.sizes, stage.index, tile.channel,
                                          kBandedPairs, problem.vectors),
                            K, filters);
    load_planes<T, Banded>(source_of(problem.x, problem.sizes, tile.image, tile.channel, kBandedPairs,
                                     problem.vectors, stage.rows, stage.cols),
                           tile.row, tile.col, K, planes);
    sync_block();

    for (int c = warp_index(); c < kBandedPairs; c += thread_count() / kWarp) {
      if (tile.channel + c >= problem.sizes.C / 2) break;
      compute_pair(problem, tile, c, planes + banded_slot(c) * pair_bytes,
                   filters + 2 * banded_slot(c) * Banded::filter_words(K));
    }
    sync_block();

    const Sink<T> sink = sink_of(arguments, tile, kBandedPairs);
    const auto gated = [&](int32_t row, int32_t col, int32_t channel, float (&values)[8]) {
      const std::byte* from =
          planes + banded_slot(channel) * pair_bytes + (row * Banded::kResultPitch + col) * 4;
      DELTACONV_UNROLL
      for (int e = 0; e < 8; ++e) {
        values[e] = *reinterpret_cast<const float*>(from + banded_slot(e) * pair_bytes);
      }
    };
    if (stage.rows.factor == 1) {
      store_tile(sink, stage, tile, kBandedPairs, gated);
    } else {
      store_upsampled(sink, stage, tile, kBandedPairs, gated);
    }
  }

 private:
  // Gated results of the block's channel pair c, all by one warp. They replace the pair's planes.
  static DELTACONV_DEVICE void compute_pair(const Problem<T>& problem, const Tile& tile, int c,
                                            std::byte* pair, const uint32_t* filters) {
    const auto K = static_cast<int>(problem.sizes.K);
    const T* planes = reinterpret_cast<const T*>(pair);
    BandedSums<Banded> u, v;
    start(problem, tile, tile.channel + c, u);
    start(problem, tile, problem.sizes.C / 2 + tile.channel + c, v);
    BandedConvolution<T, Banded>(planes, filters, K).add_to(u);
    BandedConvolution<T, Banded>(planes + Banded::plane_elements(K), filters + Banded::filter_words(K), K)
        .add_to(v);
    sync_warp();
    const int g = lane_index() / 4, q = lane_index() % 4;
    auto* gated = reinterpret_cast<float*>(pair) + g * Banded::kStep * Banded::kResultPitch + 2 * q;
    DELTACONV_UNROLL
    for (int i = 0; i < Banded::kStep; ++i) {
      DELTACONV_UNROLL
      for (int b = 0; b < Banded::kBlocks; ++b) {
        DELTACONV_UNROLL
        for (int n = 0; n < 4; ++n) {
          const int row = n / 2 * 8 * Banded::kStep + i, col = 8 * b + n % 2;
          gated[row * Banded::kResultPitch + col] =
              apply_gate(problem.gate, problem.gate_scale, u[i][b].values[n], v[i][b].values[n]);
        }
      }
    }
  }

  static DELTACONV_DEVICE void start(const Problem<T>& problem, const Tile& tile, int64_t channel,
                                     BandedSums<Banded>& sums) {
    const int64_t stage = problem.stages.at[tile.stage].index;
    const float bias = problem.bias ? to_float(problem.bias[stage * problem.sizes.C + channel]) : 0.0f;
    DELTACONV_UNROLL
    for (auto& row : sums) {
      DELTACONV_UNROLL
      for (Accumulator& sum : row) sum = {{bias, bias, bias, bias}};
    }
  }
};

template <class T>
void launch_tensor_cores_forward(const LaunchPlan& plan, const ForwardArguments<T>& arguments,
                                 Stream stream) {
  const Tiling& tiling = plan.stages.at[0].tiling;
  for_each_banded_tile(arguments.problem.sizes.K, [&](auto banded) {
    using Banded = decltype(banded);
    if (tiling.rows != Banded::kRows || tiling.cols != Banded::kCols) return;
    launch<PyramidForwardBanded<T, Banded>>(plan.grid, arguments, stream);
  });
}

}  // namespace deltaconv::cuda

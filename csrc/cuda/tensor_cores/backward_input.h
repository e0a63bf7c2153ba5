// The gradient of x on tensor cores: the flipped convolution of the planes of gradients (backward_workspace.h). The
// first launch writes, as float32 planes, the gradients of the inputs of all stages but one of full resolution. The
// second launch takes that stage, adds from those planes what pooling took, and writes the gradient of x.
#pragma once

#include "cuda/frame/planes.h"
#include "cuda/frame/pool_adjoint.h"
#include "cuda/tensor_cores/convolve.h"
#include "cuda/tensor_cores/gradient_window.h"

namespace deltaconv::cuda::tensor_cores {

template <class T, class Banded>
struct PyramidBackwardInput {
  static constexpr int kMaxThreads = kBandedThreads, kMinBlocks = 1;

  static DELTACONV_DEVICE void run(const BackwardInputArguments<T>& all) {
    const Sizes& sizes = all.backward.problem.sizes;
    Tile tile = locate_tile(all.tiles);
    if (!tile.exists) return;
    tile.channel *= 2;  // the plan counts channel pairs, this kernel single channels
    const auto K = static_cast<int>(sizes.K);
    const Stage& stage = all.tiles.at[tile.stage];
    if (stage.index >= 0) convolve_tile(all.backward, stage, tile, K);
    sync_block();

    const int plane_bytes = AdjointTile<Banded>::plane_bytes(K);
    const auto convolved = [&](int32_t row, int32_t col, int32_t channel, float (&values)[8]) {
      const std::byte* from =
          shared_memory() + banded_slot(channel) * plane_bytes + (row * Banded::kResultPitch + col) * 4;
      DELTACONV_UNROLL
      for (int e = 0; e < 8; ++e) {
        values[e] = stage.index < 0 ? 0.0f : *reinterpret_cast<const float*>(from + banded_slot(e) * plane_bytes);
      }
    };
    if (all.last) {
      store_input_gradient(all, tile, convolved);
    } else {
      store_plane(all, tile, convolved);
    }
  }

 private:
  // The flipped convolution of all of the CTA's channels; results replace the planes.
  static DELTACONV_DEVICE void convolve_tile(const BackwardArguments<T>& arguments, const Stage& stage,
                                             const Tile& tile, int K) {
    const Sizes& sizes = arguments.problem.sizes;
    const GradientGrid grid(stage.rows, stage.cols, sizes);
    const int plane_bytes = AdjointTile<Banded>::plane_bytes(K), warps = thread_count() / kWarp;
    std::byte* planes = shared_memory();
    auto* filters = reinterpret_cast<uint32_t*>(planes + kAdjointChannels * plane_bytes);
    const T* gradients = reinterpret_cast<const T*>(arguments.workspace + arguments.grad_a[stage.index]) +
                         grid.plane(tile.image, tile.channel);
    const auto channels = static_cast<int32_t>(sizes.C - tile.channel);
    const int32_t left = tile.col - K / 2 + grid.lead;  // a multiple of 8, as is the pitch
    const PlaneWindow<T, Banded> window(grid.rows, grid.pitch, tile.row - K / 2, left, K);
    if (window.has_lane()) {
      DELTACONV_NO_UNROLL
      for (int c = warp_index(); c < kAdjointChannels && c < channels; c += warps) {
        window.copy(gradients + c * grid.plane_elements(), reinterpret_cast<T*>(planes + banded_slot(c) * plane_bytes));
      }
    }
    load_flipped_filters<T, Banded>(arguments.problem.weight + stage.index * sizes.K * sizes.K * sizes.C + tile.channel,
                                    sizes.C, channels, K, filters);
    finish_loads();
    sync_block();
    for (int c = warp_index(); c < kAdjointChannels && c < channels; c += warps) {
      T* plane = reinterpret_cast<T*>(planes + banded_slot(c) * plane_bytes);
      float scale = 1.0f;
      if constexpr (std::is_same_v<T, Half>) {
        const float* scales = arguments.workspace + arguments.scales[stage.index];
        scale = share_scale<T, Banded>(scales + grid.scales(tile.image, tile.channel + c), grid, tile, K, plane);
      }
      convolve_plane(plane, filters + banded_slot(c) * Banded::filter_words(K), K, scale);
    }
  }

  static DELTACONV_DEVICE void convolve_plane(T* plane, const uint32_t* filter, int K, float scale) {
    BandedSums<Banded> sums;
    BandedConvolution<T, Banded>(plane, filter, K).sum_to(0.0f, sums);
    sync_warp();
    float* to = reinterpret_cast<float*>(plane) + lane_corner<Banded>(lane_index());
    for_each_value_pair<Banded>([&](int i, int b, int n, int row, int col) {
      const float* values = sums[i][b].values + n;
      *reinterpret_cast<FloatPair*>(to + row * Banded::kResultPitch + col) = {{values[0] * scale, values[1] * scale}};
    });
  }

  // Calls store(row, col, channel) for those of the tile's pixels and vectors of 8 channels that exist. A thread keeps
  // to one column.
  template <class Store>
  static DELTACONV_DEVICE void for_each_result(const BackwardInputArguments<T>& all, const Tile& tile,
                                               const Store& store) {
    constexpr int kVectors = kAdjointChannels / 8, kAcross = Banded::kCols * kVectors;
    const Stage& stage = all.tiles.at[tile.stage];
    const int channel = thread_index() % kVectors * 8, col = thread_index() / kVectors % Banded::kCols;
    if (tile.col + col >= stage.cols.reduced || tile.channel + channel >= all.backward.problem.sizes.C) return;
    const int32_t left = stage.rows.reduced - tile.row, rows = left < Banded::kRows ? left : Banded::kRows;
    for (int row = thread_index() / kAcross; row < rows; row += thread_count() / kAcross) {
      store(row, col, channel);
    }
  }

  template <class Convolved>
  static DELTACONV_DEVICE void store_plane(const BackwardInputArguments<T>& all, const Tile& tile,
                                           const Convolved& convolved) {
    const Sizes& sizes = all.backward.problem.sizes;
    const Stage& stage = all.tiles.at[tile.stage];
    const Plane plane = plane_of(all.backward.workspace + all.backward.grad_d[stage.index], sizes, stage, tile);
    for_each_result(all, tile, [&](int32_t row, int32_t col, int32_t channel) {
      float values[8];
      convolved(row, col, channel, values);
      store_values(plane.at(tile.row + row, tile.col + col) + channel, sizes.C - tile.channel - channel,
                   all.backward.problem.vectors, values);
    });
  }

  template <class Convolved>
  static DELTACONV_DEVICE void store_input_gradient(const BackwardInputArguments<T>& all, const Tile& tile,
                                                    const Convolved& convolved) {
    const BackwardArguments<T>& arguments = all.backward;
    const Problem<T>& problem = arguments.problem;
    const Sizes& sizes = problem.sizes;
    T* image = arguments.grad_x + tile.image * sizes.H * sizes.W * sizes.C + tile.channel;
    for_each_result(all, tile, [&](int32_t row, int32_t col, int32_t channel) {
      float values[8];
      convolved(row, col, channel, values);
      const int32_t y = tile.row + row, x = tile.col + col;
      for (int32_t s = 0; s < problem.stages.count; ++s) {
        const Stage& stage = problem.stages.at[s];
        if (stage.index == all.tiles.at[0].index) continue;
        const Plane plane = plane_of(arguments.workspace + arguments.grad_d[stage.index], sizes, stage, tile);
        add_pooled(plane, stage, y, x, channel, sizes.C - tile.channel - channel, problem.vectors, values);
      }
      store_values(image + (y * sizes.W + x) * sizes.C + channel, sizes.C - tile.channel - channel, problem.vectors,
                   values);
    });
  }
};

}  // namespace deltaconv::cuda::tensor_cores

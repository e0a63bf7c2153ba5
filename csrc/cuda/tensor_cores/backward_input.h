// The gradient of x on tensor cores: the flipped convolution of the planes of gradients
// (backward_workspace.h). One launch writes the gradients of all stages' inputs but one of full
// resolution, as float32 planes; the next one takes that stage, adds from those planes what pooling took,
// and writes the gradient of x.
#pragma once

#include "cuda/frame/planes.h"
#include "cuda/frame/pool_adjoint.h"
#include "cuda/layout/adjoint_tile.h"
#include "cuda/layout/backward_workspace.h"
#include "cuda/tensor_cores/convolve.h"

namespace deltaconv::cuda {

// A tile's window of one plane into padded shared memory, zero outside the image, by one warp. Complete
// for the block after finish_loads() and a barrier.
template <class T, class Banded>
DELTACONV_DEVICE void copy_window(const T* plane, const GradientGrid& grid, const Tile& tile, int K, bool exists,
                                  T* shared) {
  const int32_t start = tile.col - K / 2 + grid.lead;  // a multiple of 8, as is the pitch
  for (int i = lane_index(); i < Banded::plane_rows(K) * Banded::kLoads; i += kWarp) {
    const int chunk = i % Banded::kLoads, stored = i / Banded::kLoads;
    const int32_t row = tile.row - K / 2 + Banded::plane_row(stored, K), at = start + 8 * chunk;
    const bool inside = exists && 0 <= row && row < grid.rows && 0 <= at && at < grid.pitch;
    copy16_async(shared + stored * Banded::kPitch + 8 * chunk, inside ? plane + int64_t{row} * grid.pitch + at : plane,
                 inside);
  }
}

// The filters of the block's channels, turned by 180 degrees, as the pairs of neighbours of banded_tile.h.
// Half a warp takes a kernel row, its lanes are channels.
template <class T, class Banded>
DELTACONV_DEVICE void load_flipped_filters(const T* weight, int64_t stride, int32_t channels, int K, uint32_t* shared) {
  constexpr int kTaps = 8;
  const int channel = lane_index() % kAdjointChannels;
  uint32_t* to = shared + banded_slot(channel) * Banded::filter_words(K);
  for (int row = thread_index() / kAdjointChannels; row < K; row += thread_count() / kAdjointChannels) {
    const T* last = weight + int64_t{(K - 1 - row) * K + K - 1} * stride + channel;
    uint32_t before = 0;
    for (int first = 0; first <= K; first += kTaps) {
      uint32_t taps[kTaps];
      DELTACONV_UNROLL
      for (int k = 0; k < kTaps; ++k) {
        taps[k] = channel < channels && first + k < K ? (last - (first + k) * stride)->bits : 0;
      }
      DELTACONV_UNROLL
      for (int k = 0; k < kTaps; ++k) {
        if (first + k <= K) to[row * (K + 1) + first + k] = before | taps[k] << 16;
        before = taps[k];
      }
    }
  }
}

// The cells that a tile's window meets, at most 4 x 4, and a lane's one of them.
struct WindowCells {
  int32_t top, left, rows, cols;

  template <class Banded>
  DELTACONV_DEVICE static WindowCells of(const GradientGrid& grid, const Tile& tile, int K) {
    static_assert((Banded::kRows + kBandedMaxKernel / 2 - 1) / kCell + 2 <= 4 &&
                  (Banded::kCols + kBandedMaxKernel / 2 - 1) / kCell + 2 <= 4);
    const auto first = [&](int32_t at) { return at < K / 2 ? 0 : (at - K / 2) / kCell; };
    const auto count = [&](int32_t begin, int32_t end, int32_t size) {
      return ((end < size ? end : size) - 1) / kCell - begin + 1;
    };
    const int32_t top = first(tile.row), left = first(tile.col);
    return {top, left, count(top, tile.row + Banded::kRows + K / 2, grid.rows),
            count(left, tile.col + Banded::kCols + K / 2, grid.cols)};
  }
  DELTACONV_DEVICE int count() const { return rows * cols; }
  DELTACONV_DEVICE int32_t row(int cell) const { return (top + cell / cols) * kCell; }
  DELTACONV_DEVICE int32_t col(int cell) const { return (left + cell % cols) * kCell; }
};

// Brings a window that is in shared memory to one scale, the largest of its cells', by one warp; returns
// that.
template <class T, class Banded>
DELTACONV_DEVICE float share_scale(const float* scales, const GradientGrid& grid, const Tile& tile, int K, T* shared) {
  const WindowCells cells = WindowCells::of<Banded>(grid, tile, K);
  const int mine = lane_index() < cells.count() ? lane_index() : 0;
  const float scale = scales[cells.row(mine) / kCell * int64_t{grid.cell_cols} + cells.col(mine) / kCell];
  float largest = scale;
  DELTACONV_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const float other = shuffle_xor(largest, mask);
    largest = other > largest ? other : largest;
  }
  DELTACONV_NO_UNROLL
  for (int cell = 0; cell < cells.count(); ++cell) {
    const float factor = shuffle(scale, cell) / largest;
    if (factor == 1.0f) continue;
    const int32_t col = cells.col(cell) + lane_index() % kCell - tile.col + K / 2;  // of the window
    for (int32_t r = lane_index() / kCell; r < kCell; r += kWarp / kCell) {
      const int32_t row = cells.row(cell) + r - tile.row + K / 2;
      if (row < 0 || row >= Banded::plane_rows(K) || col < 0 || col >= Banded::kCols + K - 1) continue;
      T& value = shared[Banded::stored_row(row, K) * Banded::kPitch + col];
      value = from_float<T>(to_float(value) * factor);
    }
  }
  sync_warp();
  return largest;
}

template <class T, class Banded>
struct PyramidBackwardInputBanded {
  static constexpr int kMaxThreads = kBandedThreads, kMinBlocks = 1;

  static DELTACONV_DEVICE void run(const BackwardInputArguments<T>& all) {
    const Sizes& sizes = all.backward.problem.sizes;
    Tile tile = locate_tile(all.tiles);
    if (!tile.exists) return;
    tile.channel *= 2;  // the plan counts pairs
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
  // The flipped convolution of all of the block's channels; results replace the planes.
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
    for (int c = warp_index(); c < kAdjointChannels; c += warps) {
      copy_window<T, Banded>(gradients + (c < channels ? c : 0) * grid.plane_elements(), grid, tile, K, c < channels,
                             reinterpret_cast<T*>(planes + banded_slot(c) * plane_bytes));
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
    BandedSums<Banded> sums = {};
    BandedConvolution<T, Banded>(plane, filter, K).add_to(sums);
    sync_warp();
    const int g = lane_index() / 4, q = lane_index() % 4;
    float* to = reinterpret_cast<float*>(plane) + g * Banded::kStep * Banded::kResultPitch + 2 * q;
    DELTACONV_UNROLL
    for (int i = 0; i < Banded::kStep; ++i) {
      DELTACONV_UNROLL
      for (int b = 0; b < Banded::kBlocks; ++b) {
        DELTACONV_UNROLL
        for (int n = 0; n < 4; ++n) {
          const int row = n / 2 * 8 * Banded::kStep + i, col = 8 * b + n % 2;
          to[row * Banded::kResultPitch + col] = sums[i][b].values[n] * scale;
        }
      }
    }
  }

  // Calls store(row, col, channel) for the tile's pixels and vectors of 8 channels that exist, each thread
  // for one column.
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

}  // namespace deltaconv::cuda

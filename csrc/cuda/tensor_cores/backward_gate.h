// The gradient of every stage's convolution on tensor cores. The kernel recomputes u and v as the forward does, brings
// the result's gradient to the stage's grid and through the gate, and writes planes of both halves of the channels.
#pragma once

#include "cuda/frame/gate.h"
#include "cuda/frame/upsample_adjoint.h"
#include "cuda/tensor_cores/convolve.h"
#include "cuda/tensor_cores/plane_writer.h"
#include "cuda/tensor_cores/tile_of_stage.h"

namespace deltaconv::cuda::tensor_cores {

// u and v of one channel pair; later, their gradients.
template <class Banded>
struct PairSums {
  BandedSums<Banded> u, v;
};

// A CTA's tile through the gate.
template <class T, class Banded>
struct GateOfTile {
  static_assert(sizeof(Tile) <= kParkedBytes);
  static_assert(kBandedThreads == kBandedPairs * kWarp);  // a warp has one pair, whose u and v wait in its registers

  static DELTACONV_DEVICE void run(const BackwardArguments<T>& arguments, const Tile& here) {
    const Problem<T>& problem = arguments.problem;
    const auto K = static_cast<int>(problem.sizes.K);
    const int pair_bytes = Banded::pair_bytes(K), c = warp_index();
    std::byte* planes = shared_memory();
    auto* filters = reinterpret_cast<uint32_t*>(planes + kBandedPairs * pair_bytes);
    const Biases<T, Banded> biases(problem.bias, problem.sizes, problem.stages.at[here.stage].index, here.channel);
    load_half<T, Banded>(problem, here, 0, planes);
    load_filters<T, Banded>(filter_source(problem.weight, problem.sizes, problem.stages.at[here.stage].index,
                                          here.channel, kBandedPairs, problem.vectors),
                            K, filters);
    biases.store(K, filters);
    auto& tile = *reinterpret_cast<Tile*>(planes + Banded::parked_offset(K));
    if (thread_index() == 0) tile = here;
    sync_block();
    const Stage& stage = problem.stages.at[tile.stage];
    if (stage.rows.factor != 1) {
      find_spans(stage, tile, reinterpret_cast<UpsampledSpan*>(planes + Banded::shared_bytes(K)));
    }

    const bool exists = tile.channel + c < problem.sizes.C / 2;
    PairSums<Banded> sums;
    DELTACONV_NO_UNROLL
    for (int step = 0; step < 2; ++step) {
      if (loads_at(step)) {
        load_half<T, Banded>(problem, tile, 1, planes);
      } else if (exists) {
        convolve_pair_half<T, Banded>(problem, c, 0, planes, sums.u);
      }
    }
    sync_block();
    if (exists) {
      if (arguments.keep_inputs) {
        keep_inputs(arguments, tile, c, reinterpret_cast<const T*>(planes + banded_slot(c) * pair_bytes));
      }
      convolve_pair_half<T, Banded>(problem, c, 1, planes, sums.v);
    }
    sync_block();

    load_gradients(arguments, tile, planes);
    sync_block();
    finish_pair(arguments, tile, warp_of(fresh(thread_index())), planes, sums);
  }

 private:
  // Takes u and v of the CTA's pair c, if it exists, through the gate and writes their gradients.
  static DELTACONV_DEVICE void finish_pair(const BackwardArguments<T>& arguments, const Tile& tile, int c,
                                           const std::byte* planes, PairSums<Banded>& sums) {
    const Problem<T>& problem = arguments.problem;
    const int64_t half = problem.sizes.C / 2, channel = tile.channel + c;
    if (channel >= half) return;
    const int pair_bytes = Banded::pair_bytes(fresh(static_cast<int>(problem.sizes.K)));
    const auto* gated = reinterpret_cast<const float*>(planes + banded_slot(c) * pair_bytes);
    if (problem.gate == Gate::kScaled) {
      pass_gate<Gate::kScaled>(problem.gate_scale, gated, sums);
    } else {
      pass_gate<Gate::kSigmoid>(problem.gate_scale, gated, sums);
    }
    write(arguments, tile, channel, sums.u);
    write(arguments, tile, half + channel, sums.v);
  }

  // Loads the result's gradients into the places of the planes, where the forward puts its results.
  static DELTACONV_DEVICE void load_gradients(const BackwardArguments<T>& arguments, const Tile& tile,
                                              std::byte* planes) {
    const Stage& stage = arguments.problem.stages.at[tile.stage];
    const int K = fresh(static_cast<int>(arguments.problem.sizes.K)), pair_bytes = Banded::pair_bytes(K);
    const auto* spans = reinterpret_cast<const UpsampledSpan*>(planes + Banded::shared_bytes(K));
    gather_gradients(gradient_slice(arguments, tile, kBandedPairs), stage, tile,
                     TileSize{Banded::kRows, Banded::kCols, kBandedPairs}, spans,
                     [&](int32_t row, int32_t col, int32_t channel, const float (&values)[8]) {
                       std::byte* to =
                           planes + banded_slot(channel) * pair_bytes + (row * Banded::kResultPitch + col) * 4;
                       DELTACONV_UNROLL
                       for (int e = 0; e < 8; ++e) {
                         *reinterpret_cast<float*>(to + banded_slot(e) * pair_bytes) = values[e];
                       }
                     });
  }

  // Writes the tile's part of the pair's planes of inputs, by one warp. The last tile of a row writes the end of
  // the row too.
  static DELTACONV_DEVICE void keep_inputs(const BackwardArguments<T>& arguments, const Tile& tile, int c,
                                           const T* planes) {
    constexpr int kChunks = Banded::kCols / 8 + 1;
    const Sizes& sizes = arguments.problem.sizes;
    const Stage& stage = arguments.problem.stages.at[tile.stage];
    const GradientGrid grid(stage.rows, stage.cols, sizes);
    const auto K = static_cast<int>(sizes.K);
    const int owned = Banded::kCols / 8 + (tile.index_col + 1 == stage.tiling.count_cols ? 1 : 0);
    T* to = reinterpret_cast<T*>(arguments.workspace + arguments.inputs[stage.index]) +
            grid.plane(tile.image, tile.channel + c) + int64_t{tile.row} * grid.pitch + tile.col;
    for (int half = 0; half < 2; ++half) {
      for (int i = lane_index(); i < Banded::kRows * kChunks; i += kWarp) {
        const int row = i / kChunks, chunk = i % kChunks;
        if (chunk >= owned || tile.row + row >= grid.rows || tile.col + 8 * chunk >= grid.pitch) continue;
        const T* from = planes + Banded::stored_row(row + K / 2, K) * Banded::kPitch + 8 * chunk + K / 2 - grid.lead;
        store16(to + int64_t{row} * grid.pitch + 8 * chunk, load16(from));
      }
      planes += Banded::plane_elements(K);
      to += sizes.C / 2 * grid.plane_elements();
    }
  }

  // Turns u and v into their gradients; `gated` is the gradient of the gate's result.
  template <Gate kGate>
  static DELTACONV_DEVICE void pass_gate(float scale, const float* gated, PairSums<Banded>& sums) {
    gated += lane_corner<Banded>(fresh_lane_index());
    for_each_value_pair<Banded>([&](int i, int b, int n, int row, int col) {
      const auto grads = *reinterpret_cast<const FloatPair*>(gated + row * Banded::kResultPitch + col);
      DELTACONV_UNROLL
      for (int e = 0; e < 2; ++e) {
        float &u = sums.u[i][b].values[n + e], &v = sums.v[i][b].values[n + e];
        const GateGradient gradient = gate_gradient(kGate, scale, grads.values[e], u, v);
        u = gradient.u;
        v = gradient.v;
      }
    });
  }

  static DELTACONV_DEVICE void write(const BackwardArguments<T>& arguments, const Tile& tile, int64_t channel,
                                     const BandedSums<Banded>& sums) {
    const Stage& stage = arguments.problem.stages.at[tile.stage];
    const GradientGrid grid(stage.rows, stage.cols, arguments.problem.sizes);
    float inverse[2][2] = {{1.0f, 1.0f}, {1.0f, 1.0f}};
    if constexpr (std::is_same_v<T, Half>) {
      write_scales(grid, tile, sums, inverse,
                   arguments.workspace + arguments.scales[stage.index] + grid.scales(tile.image, channel));
    }
    T* planes = reinterpret_cast<T*>(arguments.workspace + arguments.grad_a[stage.index]);
    const PlaneWriter<T, Banded> writer(grid, tile, planes + grid.plane(tile.image, channel));
    writer.write(sums, inverse);
    const bool first = tile.index_col == 0, last = tile.index_col + 1 == stage.tiling.count_cols;
    if (first || last) writer.write_margins(first, last);
  }

  // Writes the scales of the tile's cells; `inverse` becomes the factors that bring the values of each cell
  // to float16's range.
  static DELTACONV_DEVICE void write_scales(const GradientGrid& grid, const Tile& tile, const BandedSums<Banded>& sums,
                                            float (&inverse)[2][2], float* scales) {
    float largest[2][2] = {};
    for_each_value<Banded>([&](int i, int b, int n, int, int) {
      const float value = sums[i][b].values[n], magnitude = value < 0.0f ? -value : value;
      float& most = largest[n / 2 * (Banded::kStep - 1)][b / 2];
      most = magnitude > most ? magnitude : most;
    });
    DELTACONV_UNROLL
    for (int cell = 0; cell < Banded::kStep * Banded::kFragments / 2; ++cell) {
      const int down = cell / (Banded::kFragments / 2), across = cell % (Banded::kFragments / 2);
      const float most = warp_max(largest[down][across]);
      const int exponent = scale_exponent(most);
      inverse[down][across] = power_of_two(-exponent);
      const int32_t row = tile.row / kCell + down, col = tile.col / kCell + across;
      if (lane_index() == 0 && row < grid.cell_rows && col < grid.cell_cols) {
        scales[row * int64_t{grid.cell_cols} + col] = power_of_two(exponent);
      }
    }
  }
};

template <class T, int kBand>
struct PyramidBackwardGate {
  static constexpr int kMaxThreads = kBandedThreads, kMinBlocks = 1;

  static DELTACONV_DEVICE void run(const BackwardArguments<T>& arguments) {
    const Tile here = locate_tile(arguments.problem.stages);
    if (!here.exists) return;
    with_tile_of<kBand>(arguments.problem.stages.at[here.stage],
                        [&](auto banded) { GateOfTile<T, decltype(banded)>::run(arguments, here); });
  }
};

}  // namespace deltaconv::cuda::tensor_cores

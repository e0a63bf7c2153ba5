// The gradient of every stage's convolution on tensor cores: recomputes u and v as the forward does,
// brings the result's gradient to the stage's grid, through the gate, and writes planes of both halves of
// the channels.
#pragma once

#include "cuda/frame/gate.h"
#include "cuda/frame/upsample_adjoint.h"
#include "cuda/layout/backward_workspace.h"
#include "cuda/tensor_cores/convolve.h"

namespace deltaconv::cuda {

// u and v of one channel pair, or their gradients.
template <class Banded>
struct PairSums {
  BandedSums<Banded> u, v;
};

// Rounds one plane's gradients of a tile, by one warp, and writes those that exist. A lane has two
// neighbouring columns, which make an aligned word of the workspace only where the planes begin at an even
// element: else every lane gets the one before its first from the lane that has it.
template <class T, class Banded>
class PlaneWriter {
 public:
  DELTACONV_DEVICE PlaneWriter(const GradientGrid& grid, const Tile& tile, T* plane)
      : grid_(grid), tile_(tile), plane_(plane), odd_(grid.lead % 2 == 1) {}

  DELTACONV_DEVICE void write(const BandedSums<Banded>& sums, const float (&inverse)[2][2]) const {
    DELTACONV_UNROLL
    for (int i = 0; i < Banded::kStep; ++i) {
      DELTACONV_UNROLL
      for (int n = 0; n < 2; ++n) {
        const int32_t row = tile_.row + (lane_index() / 4 + n * 8) * Banded::kStep + i;
        uint32_t before = 0;
        DELTACONV_UNROLL
        for (int b = 0; b <= Banded::kBlocks; ++b) {
          uint32_t word = 0;
          if (b < Banded::kBlocks) {
            const float* values = sums[i][b < Banded::kBlocks ? b : 0].values + 2 * n;
            const float by = inverse[n * (Banded::kStep - 1)][b / 2];
            word = uint32_t(from_float<T>(values[0] * by).bits) | uint32_t(from_float<T>(values[1] * by).bits) << 16;
          }
          store(row, 8 * b, odd_ ? shifted(before, word) : word);
          before = word;
        }
      }
    }
  }

  // Zeros beside the first and the last column.
  DELTACONV_DEVICE void write_margins(bool first, bool last) const {
    const int32_t end = grid_.lead + grid_.cols;
    for (int i = lane_index(); i < Banded::kRows * 16; i += kWarp) {
      const int32_t row = tile_.row + i / 16, at = i % 16 < 8 ? i % 16 : end / 8 * 8 + i % 8;
      const bool before = first && i % 16 < 8 && at < grid_.lead;
      const bool after = last && i % 16 >= 8 && end <= at && at < grid_.pitch;
      if (row < grid_.rows && (before || after)) plane_[int64_t{row} * grid_.pitch + at] = T{0};
    }
  }

 private:
  // The value before this lane's two, and the first of them.
  static DELTACONV_DEVICE uint32_t shifted(uint32_t before, uint32_t word) {
    const int q = lane_index() % 4;
    const uint32_t left = shuffle(q == 3 ? before : word, lane_index() / 4 * 4 + (q + 3) % 4);
    return left >> 16 | word << 16;
  }

  // A word whose first value is column `block` + 2q of the tile, or the one before.
  DELTACONV_DEVICE void store(int32_t row, int block, uint32_t word) const {
    const int32_t in_tile = block + lane_index() % 4 * 2 - (odd_ ? 1 : 0), col = tile_.col + in_tile;
    const int32_t limit = grid_.cols - tile_.col < Banded::kCols ? grid_.cols - tile_.col : Banded::kCols;
    if (row >= grid_.rows || in_tile >= limit) return;
    T* to = plane_ + int64_t{row} * grid_.pitch + grid_.lead + col;
    if (in_tile >= 0 && in_tile + 1 < limit) {
      *reinterpret_cast<uint32_t*>(to) = word;
    } else if (in_tile >= 0) {
      to[0] = T{static_cast<uint16_t>(word)};
    } else {
      to[1] = T{static_cast<uint16_t>(word >> 16)};
    }
  }

  GradientGrid grid_;
  Tile tile_;
  T* plane_;
  bool odd_;
};

// The scale of a cell whose values are at most `largest`; an infinity takes the largest scale.
DELTACONV_DEVICE int scale_exponent(float largest) {
  const int exponent = static_cast<int>(float_to_bits(largest) >> 23) - 127 - 14;
  const int up = (exponent + kScaleStep - 1) & -kScaleStep;
  return up < kSmallestScale ? kSmallestScale : up;
}
static_assert((kScaleStep & (kScaleStep - 1)) == 0);

DELTACONV_DEVICE float power_of_two(int exponent) { return bits_to_float(uint32_t(exponent + 127) << 23); }

template <class T, class Banded>
struct PyramidBackwardGateBanded {
  static constexpr int kMaxThreads = kBandedThreads, kMinBlocks = 1;
  static_assert(sizeof(Tile) <= kParkedBytes);
  static_assert(kBandedThreads == kBandedPairs * kWarp);  // u and v of a warp's pair wait in its registers

  static DELTACONV_DEVICE void run(const BackwardArguments<T>& arguments) {
    const Problem<T>& problem = arguments.problem;
    const Tile here = locate_tile(problem.stages);
    if (!here.exists) return;
    const auto K = static_cast<int>(problem.sizes.K);
    const int pair_bytes = Banded::pair_bytes(K), c = warp_index();
    std::byte* planes = shared_memory();
    auto* filters = reinterpret_cast<uint32_t*>(planes + kBandedPairs * pair_bytes);
    load_half<T, Banded>(problem, here, 0, planes);
    load_filters<T, Banded>(filter_source(problem.weight, problem.sizes, problem.stages.at[here.stage].index,
                                          here.channel, kBandedPairs, problem.vectors),
                            K, filters);
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
        convolve_pair_half<T, Banded>(problem, tile, c, 0, planes, sums.u);
      }
    }
    sync_block();
    if (exists) {
      if (arguments.keep_inputs) {
        keep_inputs(arguments, tile, c, reinterpret_cast<const T*>(planes + banded_slot(c) * pair_bytes));
      }
      convolve_pair_half<T, Banded>(problem, tile, c, 1, planes, sums.v);
    }
    sync_block();

    load_gradients(arguments, tile, planes);
    sync_block();
    finish_pair(arguments, tile, fresh(thread_index()) / kWarp, planes, sums);
  }

 private:
  // Takes u and v of the block's pair c, if it exists, through the gate, and writes their gradients.
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

  // The result's gradients take the planes' place, where the forward has its results.
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

  // Writes the tile's part of the pair's planes of inputs, by one warp. The last tile of a row has its end
  // too.
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

  // u and v become their gradients; `gated` is the gradient of what the gate gave.
  template <Gate kGate>
  static DELTACONV_DEVICE void pass_gate(float scale, const float* gated, PairSums<Banded>& sums) {
    const int lane = fresh_lane_index(), g = lane / 4, q = lane % 4;
    gated += g * Banded::kStep * Banded::kResultPitch + 2 * q;
    DELTACONV_UNROLL
    for (int i = 0; i < Banded::kStep; ++i) {
      DELTACONV_UNROLL
      for (int b = 0; b < Banded::kBlocks; ++b) {
        DELTACONV_UNROLL
        for (int n = 0; n < 4; ++n) {
          const int row = n / 2 * 8 * Banded::kStep + i, col = 8 * b + n % 2;
          float &u = sums.u[i][b].values[n], &v = sums.v[i][b].values[n];
          const GateGradient of = gate_gradient(kGate, scale, gated[row * Banded::kResultPitch + col], u, v);
          u = of.u;
          v = of.v;
        }
      }
    }
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

  // The scales of the tile's cells, and what brings a cell's values to their range.
  static DELTACONV_DEVICE void write_scales(const GradientGrid& grid, const Tile& tile, const BandedSums<Banded>& sums,
                                            float (&inverse)[2][2], float* scales) {
    float largest[2][2] = {};
    DELTACONV_UNROLL
    for (int i = 0; i < Banded::kStep; ++i) {
      DELTACONV_UNROLL
      for (int b = 0; b < Banded::kBlocks; ++b) {
        DELTACONV_UNROLL
        for (int n = 0; n < 4; ++n) {
          const float value = sums[i][b].values[n], magnitude = value < 0.0f ? -value : value;
          float& most = largest[n / 2 * (Banded::kStep - 1)][b / 2];
          most = magnitude > most ? magnitude : most;
        }
      }
    }
    DELTACONV_UNROLL
    for (int cell = 0; cell < Banded::kStep * Banded::kBlocks / 2; ++cell) {
      const int down = cell / (Banded::kBlocks / 2), across = cell % (Banded::kBlocks / 2);
      float most = largest[down][across];
      DELTACONV_UNROLL
      for (int mask = kWarp / 2; mask > 0; mask /= 2) {
        const float other = shuffle_xor(most, mask);
        most = other > most ? other : most;
      }
      const int exponent = scale_exponent(most);
      inverse[down][across] = power_of_two(-exponent);
      const int32_t row = tile.row / kCell + down, col = tile.col / kCell + across;
      if (lane_index() == 0 && row < grid.cell_rows && col < grid.cell_cols) {
        scales[row * int64_t{grid.cell_cols} + col] = power_of_two(exponent);
      }
    }
  }
};

}  // namespace deltaconv::cuda

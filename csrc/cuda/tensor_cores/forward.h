// The whole pyramid in one launch on tensor cores, for storage types of 16 bits.
#pragma once

#include "cuda/frame/gate.h"
#include "cuda/frame/output.h"
#include "cuda/tensor_cores/convolve.h"

namespace deltaconv::cuda::tensor_cores {

template <Gate kGate, class Banded>
DELTACONV_DEVICE void store_gated_by(float scale, const BandedSums<Banded>& u, const BandedSums<Banded>& v,
                                     float* pair) {
  float* gated = pair + lane_corner<Banded>(fresh_lane_index());
  for_each_value_pair<Banded>([&](int i, int b, int n, int row, int col) {
    const auto value = [&](int e) { return apply_gate(kGate, scale, u[i][b].values[e], v[i][b].values[e]); };
    *reinterpret_cast<FloatPair*>(gated + row * Banded::kResultPitch + col) = {{value(n), value(n + 1)}};
  });
}

// A pair's gated results replace its planes. The kind of gate is a constant behind this test: one for each value would
// keep the exponentials of a sigmoid from being in flight together.
template <class T, class Banded>
DELTACONV_DEVICE void store_gated(const Problem<T>& problem, const BandedSums<Banded>& u, const BandedSums<Banded>& v,
                                  float* pair) {
  if (problem.gate == Gate::kScaled) {
    store_gated_by<Gate::kScaled, Banded>(problem.gate_scale, u, v, pair);
  } else {
    store_gated_by<Gate::kSigmoid, Banded>(problem.gate_scale, u, v, pair);
  }
}

template <class T, class Banded>
DELTACONV_DEVICE void store_results(const ForwardArguments<T>& arguments, const Tile& tile, const std::byte* planes) {
  const Stage& stage = arguments.problem.stages.at[tile.stage];
  const int pair_bytes = Banded::pair_bytes(static_cast<int>(arguments.problem.sizes.K));
  const Sink<T> sink = sink_of(arguments, tile, kBandedPairs);
  const auto gated = [&](int32_t row, int32_t col, int32_t channel, auto& values) {
    using Value = std::remove_reference_t<decltype(values[0])>;
    const std::byte* from = planes + banded_slot(channel) * pair_bytes + (row * Banded::kResultPitch + col) * 4;
    DELTACONV_UNROLL
    for (int e = 0; e < 8; ++e) values[e] = *reinterpret_cast<const Value*>(from + banded_slot(e) * pair_bytes);
  };
  if (stage.rows.factor == 1) {
    store_tile<Banded::kRows, Banded::kCols, kBandedPairs>(sink, stage, tile, gated);
  } else {
    store_upsampled<kBandedPairs>(sink, stage, tile, gated);
  }
}

template <class T, class Banded>
struct PyramidForward {
  static constexpr int kMaxThreads = kBandedThreads, kMinBlocks = 1;
  static_assert(sizeof(Tile) <= kParkedBytes);

  static DELTACONV_DEVICE void run(const ForwardArguments<T>& arguments) {
    const Problem<T>& problem = arguments.problem;
    const Tile here = locate_tile(problem.stages);
    if (!here.exists) return;
    const auto K = static_cast<int>(problem.sizes.K);
    const int pair_bytes = Banded::pair_bytes(K), warps = thread_count() / kWarp;
    std::byte* planes = shared_memory();
    auto* filters = reinterpret_cast<uint32_t*>(planes + kBandedPairs * pair_bytes);
    // Where a warp has one pair alone, v's planes are loaded while the tensor cores work on u's planes.
    const bool in_turn = warps == kBandedPairs;
    load_first<T, Banded>(problem, here, in_turn ? 1 : 2, planes, filters);
    // The products leave no registers for what is needed between and after them, so the tile is parked
    // in shared memory.
    auto& tile = *reinterpret_cast<Tile*>(planes + Banded::parked_offset(K));
    if (thread_index() == 0) tile = here;
    sync_block();

    for (int c = warp_index(); c < kBandedPairs; c += warps) {
      const bool exists = tile.channel + c < problem.sizes.C / 2;
      BandedSums<Banded> u, v;
      DELTACONV_NO_UNROLL
      for (int step = in_turn ? 0 : 1; step < 2; ++step) {
        if (in_turn && loads_at(step)) {
          load_half<T, Banded>(problem, tile, 1, planes);
        } else if (exists) {
          convolve_pair_half<T, Banded>(problem, c, 0, planes, u);
        }
      }
      if (in_turn) sync_block();
      if (!exists) break;
      convolve_pair_half<T, Banded>(problem, c, 1, planes, v);
      sync_warp();
      store_gated<T, Banded>(problem, u, v, reinterpret_cast<float*>(planes + banded_slot(c) * pair_bytes));
    }
    sync_block();
    store_results<T, Banded>(arguments, tile, planes);
  }
};

}  // namespace deltaconv::cuda::tensor_cores

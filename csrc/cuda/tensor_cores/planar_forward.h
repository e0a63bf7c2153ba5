// The pyramid of a fused block on tensor cores: it reads channel planes, of every stage's own grid, that the
// in-projection has written. Each warp copies the windows of its own channel pairs and waits for them alone.
#pragma once

#include "cuda/layout/channel_planes.h"
#include "cuda/tensor_cores/forward.h"
#include "cuda/tensor_cores/plane_window.h"

namespace deltaconv::cuda::tensor_cores {

template <class T, class Banded>
struct PlanarForward {
  static constexpr int kMaxThreads = kBandedThreads, kMinBlocks = 1;

  static DELTACONV_DEVICE void run(const PlanarForwardArguments<T>& arguments) {
    const Problem<T>& problem = arguments.forward.problem;
    const Tile here = locate_tile(problem.stages);
    if (!here.exists) return;
    const auto K = static_cast<int>(problem.sizes.K);
    const int pair_bytes = Banded::pair_bytes(K), warps = thread_count() / kWarp;
    const auto left = static_cast<int32_t>(problem.sizes.C / 2) - here.channel;
    const int pairs = left < kBandedPairs ? left : kBandedPairs;
    std::byte* planes = shared_memory();
    auto* filters = reinterpret_cast<uint32_t*>(planes + kBandedPairs * pair_bytes);
    load_filters_and<T, Banded>(problem, here, filters, [&] { copy_windows(arguments, here, K, pairs, planes); });
    // The products leave no registers for what is needed behind them, so the tile is parked in shared memory.
    auto& tile = *reinterpret_cast<Tile*>(planes + Banded::parked_offset(K));
    if (thread_index() == 0) tile = here;
    sync_block();

    for (int c = warp_index(); c < pairs; c += warps) {
      BandedSums<Banded> u, v;
      wait_for_next_window();
      convolve_pair_half<T, Banded>(problem, c, 0, planes, u, shift_of(problem));
      wait_for_next_window();
      convolve_pair_half<T, Banded>(problem, c, 1, planes, v, shift_of(problem));
      sync_warp();
      store_gated<T, Banded>(problem, u, v, reinterpret_cast<float*>(planes + banded_slot(c) * pair_bytes));
    }
    sync_block();
    store_results<T, Banded>(arguments.forward, tile, planes);
  }

 private:
  static constexpr int kPairs = 2;  // the most that a warp takes

  // Columns of the window before the first that the kernel reads.
  static DELTACONV_DEVICE int shift_of(const Problem<T>& problem) {
    const int K = fresh(static_cast<int>(problem.sizes.K));
    return ChannelPlanes::margin(K) - K / 2;
  }

  // Starts the copies of this warp's pairs: u's window, then v's, each a group. Where the warp has one pair alone, the
  // groups of a second one are empty.
  static DELTACONV_DEVICE void copy_windows(const PlanarForwardArguments<T>& arguments, const Tile& tile, int K,
                                            int pairs, std::byte* planes) {
    const auto& [data, grid] = arguments.inputs[tile.stage];
    const int32_t left = tile.col - ChannelPlanes::margin(K) + grid.lead;
    const PlaneWindow<T, Banded> window(grid.rows, grid.pitch, tile.row - K / 2, left, K);
    if (!window.has_lane()) return;
    const int warps = thread_count() / kWarp;
    const int64_t plane = grid.plane_elements(), half = grid.channels / 2 * plane;
    const T* from = data + grid.plane(tile.image, tile.channel + warp_index());
    int c = warp_index();
    DELTACONV_NO_UNROLL
    for (; c < pairs; c += warps, from += warps * plane) {
      T* to = reinterpret_cast<T*>(planes + banded_slot(c) * Banded::pair_bytes(K));
      window.copy(from, to);
      commit_copies();
      window.copy(from + half, to + Banded::plane_elements(K));
      commit_copies();
    }
    if (c >= kPairs * warps) return;
    commit_copies();
    commit_copies();
  }

  // Waits for the window that comes next. An empty group takes its place, so that as many are behind the next one.
  static DELTACONV_DEVICE void wait_for_next_window() {
    wait_copies<2 * kPairs - 1>();
    commit_copies();
    sync_warp();
  }
};

}  // namespace deltaconv::cuda::tensor_cores

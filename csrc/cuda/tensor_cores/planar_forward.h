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
    std::byte* planes = shared_memory();
    auto* filters = reinterpret_cast<uint32_t*>(planes + kBandedPairs * pair_bytes);
    load_filters_and<T, Banded>(problem, here, filters, [&] { copy_windows(arguments, here, K, planes); });
    // The products leave no registers for what is needed behind them, so the tile is parked in shared memory.
    auto& tile = *reinterpret_cast<Tile*>(planes + Banded::parked_offset(K));
    if (thread_index() == 0) tile = here;
    sync_block();

    for (int c = warp_index(); exists(problem, tile, c); c += warps) {
      const bool last = !exists(problem, tile, c + warps);
      BandedSums<Banded> u, v;
      wait_for_window(last, true);
      convolve_pair_half<T, Banded>(problem, c, 0, planes, u, shift_of(problem));
      wait_for_window(last, false);
      convolve_pair_half<T, Banded>(problem, c, 1, planes, v, shift_of(problem));
      sync_warp();
      store_gated<T, Banded>(problem, u, v, reinterpret_cast<float*>(planes + banded_slot(c) * pair_bytes));
    }
    sync_block();
    store_results<T, Banded>(arguments.forward, tile, planes);
  }

 private:
  // Columns of the window before the first that the kernel reads.
  static DELTACONV_DEVICE int shift_of(const Problem<T>& problem) {
    const int K = fresh(static_cast<int>(problem.sizes.K));
    return ChannelPlanes::margin(K) - K / 2;
  }

  static DELTACONV_DEVICE bool exists(const Problem<T>& problem, const Tile& tile, int c) {
    return c < kBandedPairs && tile.channel + c < static_cast<int32_t>(static_cast<uint32_t>(problem.sizes.C) / 2);
  }

  // Starts the copies of this warp's pairs, one pair or two: u's window, then v's, each a group.
  static DELTACONV_DEVICE void copy_windows(const PlanarForwardArguments<T>& arguments, const Tile& tile, int K,
                                            std::byte* planes) {
    const Problem<T>& problem = arguments.forward.problem;
    const auto& [data, grid] = arguments.inputs[tile.stage];
    const int64_t half = grid.channels / 2 * grid.plane_elements();
    const int32_t top = tile.row - K / 2, left = tile.col - ChannelPlanes::margin(K) + grid.lead;
    DELTACONV_NO_UNROLL
    for (int c = warp_index(); exists(problem, tile, c); c += thread_count() / kWarp) {
      const T* from = data + grid.plane(tile.image, tile.channel + c);
      T* to = reinterpret_cast<T*>(planes + banded_slot(c) * Banded::pair_bytes(K));
      DELTACONV_NO_UNROLL
      for (int h = 0; h < 2; ++h) {
        copy_plane_window<T, Banded>({from, grid.rows, grid.pitch}, top, left, K, to);
        commit_copies();
        from += half;
        to += Banded::plane_elements(K);
      }
    }
  }

  // Waits for the window of a pair's u or v; `last`: the warp has no pair behind this one.
  static DELTACONV_DEVICE void wait_for_window(bool last, bool u) {
    if (last && !u) {
      wait_copies<0>();
    } else if (last) {
      wait_copies<1>();
    } else if (!u) {
      wait_copies<2>();
    } else {
      wait_copies<3>();
    }
    sync_warp();
  }
};

}  // namespace deltaconv::cuda::tensor_cores

// The gradient of every stage's convolution. The kernel recomputes the convolution, brings the result's gradient to the
// stage's grid and through the gate, and writes both halves of the channels to the workspace.
#pragma once

#include "cuda/cuda_cores/stage.h"
#include "cuda/frame/gate.h"
#include "cuda/frame/planes.h"
#include "cuda/frame/upsample_adjoint.h"

namespace deltaconv::cuda::cuda_cores {

template <class T, int kKernel>
struct PyramidBackwardGate {
  static constexpr int kMaxThreads = cuda_cores::kMaxThreads, kMinBlocks = 2;

  static DELTACONV_DEVICE void run(const BackwardArguments<T>& arguments) {
    const Problem<T>& problem = arguments.problem;
    const Tile tile = locate_tile(problem.stages);
    if (!tile.exists) return;
    const Stage& stage = problem.stages.at[tile.stage];
    float* shared = reinterpret_cast<float*>(shared_memory());
    RegisterTile sums;
    convolve_stage<kKernel>(problem, tile, shared, sums);
    const Pairs pairs = exchange_halves(sums);

    const GradientSlice<T> grad = gradient_slice(arguments, tile, kPairs);
    const bool reduced = stage.rows.factor != 1;
    if (reduced) {
      auto* spans = reinterpret_cast<UpsampledSpan*>(shared + stage.tiling.rows * stage.tiling.cols * kPairs);
      sync_block();
      find_spans(stage, tile, spans);
      sync_block();
      gather_gradients(grad, stage, tile, TileSize{stage.tiling.rows, stage.tiling.cols, kPairs}, spans,
                       [&](int32_t row, int32_t col, int first, const auto& values) {
                         store_shared<T>(shared + (row * stage.tiling.cols + col) * kPairs + first, values);
                       });
      sync_block();
    }
    const WarpTile mine = warp_tile(stage.tiling);
    const int32_t first_row = mine.row + first_pair_row();
    const int channel = lane_index() % kPairs;
    if (channel >= grad.channels) return;
    const Plane plane = plane_of(arguments.workspace + arguments.grad_a[stage.index], problem.sizes, stage, tile);
    const int64_t half = problem.sizes.C / 2;
    DELTACONV_UNROLL
    for (int i = 0; i < kTileH / 2; ++i) {
      DELTACONV_UNROLL
      for (int n = 0; n < kTileW; ++n) {
        const int32_t in_row = first_row + i, in_col = mine.col + n;
        const int32_t row = tile.row + in_row, col = tile.col + in_col;
        if (row >= stage.rows.reduced || col >= stage.cols.reduced) continue;
        const float gated = reduced ? shared[(in_row * stage.tiling.cols + in_col) * kPairs + channel]
                                    : to_float(grad.data[row * grad.row_stride + col * grad.col_stride + channel]);
        const GateGradient gradient =
            gate_gradient(problem.gate, problem.gate_scale, gated, pairs.u[i][n], pairs.v[i][n]);
        float* to = plane.at(row, col) + channel;
        to[0] = gradient.u;
        to[half] = gradient.v;
      }
    }
  }
};

}  // namespace deltaconv::cuda::cuda_cores

// What the host hands to the kernels, by value. plan/plan.h decides the tilings of the stages.
#pragma once

#include "cuda/device/types.h"
#include "cuda/layout/channel_planes.h"
#include "cuda/layout/stages.h"
#include "pyramid.h"

namespace deltaconv::cuda {

// Whether every row of channels of this image can be read and written 16 aligned bytes at a time.
template <class P>
bool rows_aligned(const Image<P>& image) {
  constexpr int64_t kWidth = 16 / sizeof(P);
  const auto address = reinterpret_cast<uintptr_t>(image.data);
  return address % 16 == 0 && image.batch_stride % kWidth == 0 && image.row_stride % kWidth == 0 &&
         image.col_stride % kWidth == 0;
}

template <class T>
struct Problem {
  Sizes sizes;
  Gate gate;
  float gate_scale;
  bool vectors;   // C/2 and the alignment of all tensors allow 16-byte accesses to channels
  int32_t pairs;  // channel pairs (c, c + C/2) of a CTA
  Stages stages;
  Image<const T> x;
  const T* weight;  // [S, K, K, C]
  const T* bias;    // [S, C] or null
};

template <class T>
struct ForwardArguments {
  Problem<T> problem;
  Image<const T> residual;  // data is null without one
  T* result;                // contiguous [B, H, W, S * C / 2]
};

// The arguments of a fused block's pyramid that reads channel planes (channel_planes.h). Its problem's x is not used.
template <class T>
struct PlanarForwardArguments {
  struct Input {
    const T* data;
    ChannelPlanes planes;
  };
  ForwardArguments<T> forward;
  Input inputs[kMaxStages];  // the grid of each of stages.at
};

// A part of the workspace begins at workspace + the stage's offset, in floats; plan/plan.h says what the parts are.
template <class T>
struct BackwardArguments {
  Problem<T> problem;
  Image<const T> grad;  // [B, H, W, S * C / 2]
  T* grad_x;            // contiguous, or null
  float* workspace;
  // Offsets by Stage::index. Inputs are kept only if the gradient of weight or bias is wanted.
  int64_t grad_a[kMaxStages], scales[kMaxStages], inputs[kMaxStages], grad_d[kMaxStages];
  bool keep_inputs;
};

// The arguments of an adjoint convolution's launch.
template <class T>
struct BackwardInputArguments {
  BackwardArguments<T> backward;
  Stages tiles;  // how the launch's grids are cut; the last launch has one grid, that of x
  bool last;     // the launch writes grad_x, else grad_d
};

template <class T>
struct BackwardWeightArguments {
  BackwardArguments<T> backward;
  float* partials;  // [partitions, S, K * K + 1, C]
  int32_t partitions, tasks_per_cta, slices;
};

// The arguments of the launch that adds up partial sums, in their order.
template <class T>
struct WeightSumArguments {
  Sizes sizes;
  const float* partials;
  int32_t partitions[kMaxStages];  // for each stage, the partitions that have tiles
  T* grad_weight;                  // or null
  T* grad_bias;                    // or null
};

}  // namespace deltaconv::cuda

// What the host hands to the kernels. All of it is plain data: the kernels are compiled several times for different
// instruction sets, and an inline function that they share could be linked from the wrong one.
#pragma once

#include <cstdint>

#include "pyramid.h"

namespace deltaconv::cpu {

// float32 in memory, summed in float64, for problems whose results may cancel: see kPreciseChannels.
struct PreciseFloat {
  float value;
};

// The type in which storage type T is summed.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <>
struct AccumulatorOf<PreciseFloat> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

// A task works on one channel block: kChannelBlock pairs of channels (c, c + C/2). That is 64 bytes of float32, a cache
// line of x and of the result.
inline constexpr int64_t kChannelBlock = 16;

struct Window {
  int32_t start, count;
};

// A banded matrix along one axis: out[i] = sum_k weights[i * pitch + k] * in[windows[i].start + k]. Average pooling,
// bilinear interpolation and their adjoints are each a product of two such matrices, one for rows and one for columns.
//
//   average pooling of 5 inputs to 2 outputs, pitch 3
//   windows      {0, 3}            {2, 3}
//   weights      1/3 1/3 1/3       1/3 1/3 1/3
template <class A>
struct Resample {
  const Window* windows;
  const A* weights;
  int64_t pitch;
};

// How one stage's grid [h, w] relates to the image [H, W]. Unused where factor is 1.
template <class A>
struct StagePlan {
  int64_t factor, h, w;
  bool divides;                                              // H and W are multiples of factor
  Resample<A> pool_rows, pool_cols;                          // image -> stage
  Resample<A> upsample_rows, upsample_cols;                  // stage -> image
  Resample<A> pool_adjoint_rows, pool_adjoint_cols;          // stage -> image
  Resample<A> upsample_adjoint_rows, upsample_adjoint_cols;  // image -> stage
};

struct Span {
  int64_t begin, end;
};

template <class T>
struct Problem {
  Sizes sizes;
  Gate gate;
  Accumulator<T> gate_scale;
  const StagePlan<Accumulator<T>>* stages;
  Image<const T> x;
  const T* weight;  // [S, K, K, C]
  const T* bias;    // [S, C] or null
};

template <class T>
struct ForwardArguments {
  Problem<T> problem;
  Image<const T> residual;  // data is null without one
  Image<T> result;
  bool streams;  // writes the result past the caches, where vectors are whole cache lines
};

// A rectangle of the result, one channel block, all stages.
struct ForwardTask {
  int64_t image, channel_block;
  Span rows, cols;
};

// An image is cut into strips x panels, by the problem's sizes alone. Sums of the weight gradient start anew with each
// strip, which keeps them short. The strips of a group are added up in order, and each group and panel has its own
// partial weight gradient. None of this depends on which thread computes what.
struct Partition {
  int64_t strips, panels;  // parts of H and of W
  int64_t groups;          // groups that the strips form
};

template <class T>
struct BackwardArguments {
  Problem<T> problem;
  Image<const T> grad;
  Partition partition;
  T* grad_x;                 // contiguous [B, H, W, C], or null
  Accumulator<T>* partials;  // [B, groups, panels, S, K * K + 1, C], the last tap is the bias; or null
  bool streams;              // writes grad_x past the caches, as the forward its result
};

// Strips [begin, end) of one panel, one channel block, all stages.
struct BackwardTask {
  int64_t image, channel_block, panel;
  Span strips;
};

// The kernels of one instruction set for one storage type.
template <class T>
struct Kernels {
  int64_t (*convolution_tile)(const Problem<T>&);  // outputs and taps of its fast convolution: m in tiles.h
  int64_t (*forward_scratch)(const ForwardArguments<T>&, const ForwardTask&);  // bytes
  void (*forward)(const ForwardArguments<T>&, const ForwardTask&, void* scratch);
  int64_t (*backward_scratch)(const BackwardArguments<T>&, const BackwardTask&);  // bytes
  void (*backward)(const BackwardArguments<T>&, const BackwardTask&, void* scratch);
  // out[i] = sum_p partials[p * stride + i] for i in range, p in ascending order, rounded once.
  void (*reduce)(const Accumulator<T>* partials, int64_t count, int64_t stride, Span range, T* out);
};

struct InstructionSet {
  const char* name;
  Kernels<float> float32;
  Kernels<PreciseFloat> precise_float32;
  Kernels<double> float64;
  Kernels<Half> float16;
  Kernels<BFloat16> bfloat16;
};

}  // namespace deltaconv::cpu

// What the host hands to the kernels. Plain data only: the kernels are compiled several times for different
// instruction sets, and an inline function shared among them could be linked from the wrong one.
#pragma once

#include <cstdint>

#include "pyramid.h"

namespace deltaconv::cpu {

// Storage types of 16 bits; widened to float32 when loaded, rounded once when stored.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// float32 in memory, summed in float64: for problems whose results may cancel, see kPreciseChannels.
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

// A task works on kBlock pairs of channels (c, c + C/2): 64 bytes of float32, a cache line of x and of the
// result.
inline constexpr int64_t kBlock = 16;

struct Span {
  int32_t start, count;
};

// A banded matrix along one axis: out[i] = sum_k weights[i * pitch + k] * in[spans[i].start + k].
// Average pooling, bilinear interpolation and their adjoints are all separable into two of these.
template <class A>
struct Resample {
  const Span* spans;
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

// A [B, H, W, channels] tensor; strides in elements, the channels' is 1.
template <class P>
struct Image {
  P* data;
  int64_t batch_stride, row_stride, col_stride;
};

struct Range {
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
  bool streams;  // the result past the caches, where vectors are whole cache lines
};

// One rectangle of the result, all stages.
struct ForwardTask {
  int64_t image, block;
  Range rows, cols;
};

// An image is cut into strips x panels, by the problem's sizes alone. Sums of the weight gradient start anew
// with each strip, which keeps them short; the strips of a group are added up in order, and each group and
// panel has its own partial weight gradient. Nothing of that depends on which thread computed what.
struct Partition {
  int64_t strips, panels;  // along H and along W
  int64_t groups;          // of strips
};

template <class T>
struct BackwardArguments {
  Problem<T> problem;
  Image<const T> grad;
  Partition partition;
  T* grad_x;                 // contiguous [B, H, W, C], or null
  Accumulator<T>* partials;  // [B, groups, panels, S, K * K + 1, C], the last tap is the bias; or null
  bool streams;              // grad_x, as the result of forward
};

// Strips [begin, end) of one panel, all stages.
struct BackwardTask {
  int64_t image, block, panel;
  Range strips;
};

// The kernels of one instruction set for one storage type.
template <class T>
struct Kernels {
  int64_t (*forward_scratch)(const ForwardArguments<T>&, const ForwardTask&);  // bytes
  void (*forward)(const ForwardArguments<T>&, const ForwardTask&, void* scratch);
  int64_t (*backward_scratch)(const BackwardArguments<T>&, const BackwardTask&);  // bytes
  void (*backward)(const BackwardArguments<T>&, const BackwardTask&, void* scratch);
  // out[i] = sum_p partials[p * stride + i] for i in range, p in ascending order, rounded once.
  void (*reduce)(const Accumulator<T>* partials, int64_t count, int64_t stride, Range range, T* out);
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

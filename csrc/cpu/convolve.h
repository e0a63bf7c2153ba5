// The two inner loops that nearly all time is spent in: a row of a depthwise convolution, and a row's share
// of its weight gradient. Both work on one vector of channels, widened and zero-padded.
#pragma once

#include "cpu/simd.h"

namespace deltaconv::cpu::DELTACONV_ISA {

// Columns past the last that convolve_row may read and write.
inline constexpr int64_t kColumnSlack = 4;

// out[x] = bias + sum over (i, j) of weights[i * K + j] * rows[i][x + j], for x in [0, cols).
//   rows:    K pointers; [cols + K - 1 + kColumnSlack] vectors from `offset` on; null for a row of zeros
//   weights: K * K vectors
//   out:     [cols + kColumnSlack] vectors
template <class A>
using ConvolveRow = void (*)(const A* const* rows, int64_t offset, int64_t K, int64_t cols, const A* weights,
                             const A* bias, A* out);

// sums[i * K + j] += sum over x in [0, cols) of grad[x] * rows[i][x + j], x in ascending order.
template <class A>
using AccumulateWeight = void (*)(const A* const* rows, int64_t offset, int64_t K, int64_t cols,
                                  const A* grad, A* sums);

template <class A>
ConvolveRow<A> convolve_row(int64_t K);
template <class A>
AccumulateWeight<A> accumulate_weight(int64_t K);

}  // namespace deltaconv::cpu::DELTACONV_ISA

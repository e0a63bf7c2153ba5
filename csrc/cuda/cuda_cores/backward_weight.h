// The gradients of weight and bias on CUDA cores: partial sums over fixed partitions of the pixels, then the sum of the
// partitions in a fixed order.
//
// A lane is a channel. An input row and a kernel row determine the row of gradients: for each of the task's kernel
// rows, kTileW + K - 1 inputs and kTileW gradients serve kTileW * K multiply-adds.
#pragma once

#include "cuda/cuda_cores/planes.h"

namespace deltaconv::cuda::cuda_cores {

// What a CTA works on, and what this warp does of it.
struct WeightWork {
  int32_t stage, channel, partition, first_task;
  int32_t task, slice;  // this warp's; the task may not exist
  Span kernel_rows;     // those of the CTA's tasks

  template <class T>
  DELTACONV_DEVICE WeightWork(const BackwardWeightArguments<T>& arguments, const WeightTasks& tasks) {
    const auto channel_blocks = static_cast<uint32_t>((arguments.backward.problem.sizes.C / 2 + kPairs - 1) / kPairs);
    const uint32_t chunks = (tasks.count() + arguments.tasks_per_cta - 1) / arguments.tasks_per_cta;
    auto rest = static_cast<uint32_t>(block_index());
    channel = static_cast<int32_t>(rest % channel_blocks) * kPairs;
    rest /= channel_blocks;
    first_task = static_cast<int32_t>(rest % chunks) * arguments.tasks_per_cta;
    rest /= chunks;
    partition = static_cast<int32_t>(rest % arguments.partitions);
    stage = static_cast<int32_t>(rest / arguments.partitions);
    task = first_task + warp_index() / arguments.slices;
    slice = warp_index() % arguments.slices;
    kernel_rows = task_rows(tasks, first_task, arguments.tasks_per_cta);
  }
};

template <int kKernel>
struct TapSums {
  static constexpr int kRows = kKernel == 0 ? kTapRows : (kKernel + (kKernel + 3) / 4 - 1) / ((kKernel + 3) / 4);
  static constexpr int kCols = kKernel == 0 ? kTapCols : kKernel;
  float taps[kRows][kCols] = {};
  float bias = 0.0f;
};

// A tile in shared memory: inputs [rows + kernel rows - 1][cols + K - 1][kLanes], gradients [rows][cols][kLanes].
struct WeightTile {
  const float *inputs, *grads;
  int32_t rows, cols, input_cols;
};

// Adds what one task gets from a tile. The task's taps are kernel rows `rows` and columns `cols`. Kernel row
// `first_row` meets the first input row in the first row of gradients.
template <int kKernel>
DELTACONV_DEVICE void add_tile(const WeightTile& tile, Span rows, Span cols, int32_t first_row, int32_t slice,
                               int32_t slices, TapSums<kKernel>& sums) {
  constexpr int kInputs = kTileW + TapSums<kKernel>::kCols - 1;
  const int32_t begin = rows.begin - first_row, end = rows.end - first_row + tile.rows - 1;
  for (int32_t r = begin + slice; r < end; r += slices) {
    for (int32_t col = 0; col < tile.cols; col += kTileW) {
      const float* from = tile.inputs + (r * tile.input_cols + col + cols.begin) * kLanes + lane_index();
      const int32_t left = tile.input_cols - col - cols.begin;  // a task of fewer columns ends earlier
      float input[kInputs];
      DELTACONV_UNROLL
      for (int n = 0; n < kInputs; ++n) input[n] = kKernel != 0 || n < left ? from[n * kLanes] : 0.0f;
      DELTACONV_UNROLL
      for (int j = 0; j < TapSums<kKernel>::kRows; ++j) {
        const int32_t row = r + first_row - rows.begin - j;
        if (row < 0 || row >= tile.rows || rows.begin + j >= rows.end) continue;
        const float* grads = tile.grads + (row * tile.cols + col) * kLanes + lane_index();
        float total = 0.0f;
        DELTACONV_UNROLL
        for (int n = 0; n < kTileW; ++n) {
          const float grad = grads[n * kLanes];
          total += grad;
          DELTACONV_UNROLL
          for (int k = 0; k < TapSums<kKernel>::kCols; ++k) {
            sums.taps[j][k] = fused_multiply_add(input[n + k], grad, sums.taps[j][k]);
          }
        }
        if (j == 0) sums.bias += total;
      }
    }
  }
}

// Adds the sums of a task's other slices to those of its slice 0, in the order of the slices.
template <int kKernel>
DELTACONV_DEVICE void add_slices(const WeightWork& work, int32_t slices, float* shared, TapSums<kKernel>& sums) {
  using Sums = TapSums<kKernel>;
  constexpr int kTaps = Sums::kRows * Sums::kCols;
  float* exchanged = shared + (work.task - work.first_task) * (kTaps + 1) * kLanes + lane_index();
  for (int32_t slice = 1; slice < slices; ++slice) {
    sync_block();
    if (work.slice == slice) {
      DELTACONV_UNROLL
      for (int t = 0; t < kTaps; ++t) exchanged[t * kLanes] = sums.taps[t / Sums::kCols][t % Sums::kCols];
      exchanged[kTaps * kLanes] = sums.bias;
    }
    sync_block();
    if (work.slice == 0) {
      DELTACONV_UNROLL
      for (int t = 0; t < kTaps; ++t) sums.taps[t / Sums::kCols][t % Sums::kCols] += exchanged[t * kLanes];
      sums.bias += exchanged[kTaps * kLanes];
    }
  }
}

template <class T, int kKernel>
struct PyramidBackwardWeight {
  // From K = 11 on the sums need more than 128 registers, and a tile leaves shared memory for one CTA alone.
  static constexpr int kMaxThreads = cuda_cores::kMaxThreads, kMinBlocks = kKernel >= 11 ? 1 : 2;

  static DELTACONV_DEVICE void run(const BackwardWeightArguments<T>& arguments) {
    const Problem<T>& problem = arguments.backward.problem;
    const WeightTasks tasks(kKernel != 0 ? kKernel : static_cast<int32_t>(problem.sizes.K));
    const WeightWork work(arguments, tasks);
    const Stage& stage = problem.stages.at[work.stage];
    const int64_t tiles = stage.tiling.count() * problem.sizes.B;
    if (work.partition >= tiles) return;
    const bool exists = work.task < tasks.count() && work.task < work.first_task + arguments.tasks_per_cta;
    const int32_t partitions = arguments.partitions < tiles ? arguments.partitions : static_cast<int32_t>(tiles);
    TapSums<kKernel> sums;
    float* shared = reinterpret_cast<float*>(shared_memory());
    const int64_t first = tiles * work.partition / partitions, end = tiles * (work.partition + 1) / partitions;
    for (int64_t i = first; i < end; ++i) {
      if (i > first) sync_block();
      const WeightTile tile = load_tile(arguments, work, tasks.K, i, shared);
      sync_block();
      if (exists) {
        add_tile(tile, tasks.rows(work.task), tasks.cols(work.task), work.kernel_rows.begin, work.slice,
                 arguments.slices, sums);
      }
    }
    add_slices(work, arguments.slices, shared, sums);
    if (exists && work.slice == 0) store(arguments, work, tasks, sums);
  }

  static DELTACONV_DEVICE WeightTile load_tile(const BackwardWeightArguments<T>& arguments, const WeightWork& work,
                                               int32_t K, int64_t index, float* shared) {
    const Problem<T>& problem = arguments.backward.problem;
    const Stage& stage = problem.stages.at[work.stage];
    const Tiling& tiling = stage.tiling;
    const auto image = static_cast<int32_t>(index / tiling.count());
    const auto in_image = static_cast<int32_t>(index % tiling.count());
    const int32_t row = in_image / tiling.count_cols * tiling.rows, col = in_image % tiling.count_cols * tiling.cols;
    const auto inputs =
        source_of(problem.x, problem.sizes, image, work.channel, kPairs, problem.vectors, stage.rows, stage.cols);
    const auto grads = plane_source(arguments.backward.workspace + arguments.backward.grad_a[stage.index],
                                    problem.sizes, stage, image, work.channel);
    const int32_t input_rows = tiling.rows + work.kernel_rows.end - work.kernel_rows.begin - 1;
    const int32_t input_cols = tiling.cols + K - 1;
    float* shared_grads = shared + input_rows * input_cols * kLanes;
    load_rows(inputs, row - K / 2 + work.kernel_rows.begin, col - K / 2, input_rows, input_cols, shared);
    load_rows(grads, row, col, tiling.rows, tiling.cols, shared_grads);
    finish_loads();
    return {shared, shared_grads, tiling.rows, tiling.cols, input_cols};
  }

  static DELTACONV_DEVICE void store(const BackwardWeightArguments<T>& arguments, const WeightWork& work,
                                     const WeightTasks& tasks, const TapSums<kKernel>& sums) {
    const Sizes& sizes = arguments.backward.problem.sizes;
    const int64_t half = sizes.C / 2, in_half = work.channel + lane_index() % kPairs;
    if (in_half >= half) return;
    const int64_t taps = sizes.K * sizes.K + 1;
    const int32_t stage = arguments.backward.problem.stages.at[work.stage].index;
    float* to = arguments.partials + (work.partition * sizes.S + stage) * taps * sizes.C +
                lane_index() / kPairs * half + in_half;
    const Span rows = tasks.rows(work.task), cols = tasks.cols(work.task);
    DELTACONV_UNROLL
    for (int j = 0; j < TapSums<kKernel>::kRows; ++j) {
      DELTACONV_UNROLL
      for (int k = 0; k < TapSums<kKernel>::kCols; ++k) {
        if (rows.begin + j >= rows.end || cols.begin + k >= cols.end) continue;
        to[((rows.begin + j) * sizes.K + cols.begin + k) * sizes.C] = sums.taps[j][k];
      }
    }
    if (work.task == 0) to[(taps - 1) * sizes.C] = sums.bias;
  }
};

// Adds up the partial sums: a thread takes one tap of one channel. It serves both paths, since their partial sums
// have one layout.
template <class T>
struct PyramidBackwardWeightSum {
  static constexpr int kMaxThreads = cuda_cores::kMaxThreads, kMinBlocks = 2;

  static DELTACONV_DEVICE void run(const WeightSumArguments<T>& arguments) {
    const Sizes& sizes = arguments.sizes;
    const int64_t K2 = sizes.K * sizes.K, elements = sizes.S * (K2 + 1) * sizes.C;
    const int64_t element = block_index() * thread_count() + thread_index();
    if (element >= elements) return;
    const int64_t channel = element % sizes.C, tap = element / sizes.C % (K2 + 1), stage = element / sizes.C / (K2 + 1);
    T* to = tap < K2 ? arguments.grad_weight : arguments.grad_bias;
    if (!to) return;
    float sum = 0.0f;
    for (int32_t p = 0; p < arguments.partitions[stage]; ++p) sum += arguments.partials[p * elements + element];
    to[tap < K2 ? (stage * K2 + tap) * sizes.C + channel : stage * sizes.C + channel] = from_float<T>(sum);
  }
};

}  // namespace deltaconv::cuda::cuda_cores

// The shift that every pixel of an image gets: pool_proj(mean of x). It is cut into slices of the mean's channels,
// which the out-projection adds up. Everything is float32.
#pragma once

#include "cuda/device/device.h"
#include "cuda/fused_block/arguments.h"

namespace deltaconv::cuda::fused_block {

template <class T>
struct Shift {
  static constexpr int kMaxThreads = kShiftThreads, kMinBlocks = 2;
  static constexpr int kWarps = kShiftThreads / kWarp;

  static DELTACONV_DEVICE void run(const ShiftArguments<T>& arguments) {
    const auto cta = static_cast<uint32_t>(block_index());
    const auto output_tiles = static_cast<uint32_t>(arguments.output_tiles);
    const auto slices = static_cast<uint32_t>(arguments.slices);
    const auto image = static_cast<int64_t>(cta / output_tiles / slices);
    const auto slice = static_cast<int32_t>(cta / output_tiles % slices);
    const auto first_output = static_cast<int32_t>(cta % output_tiles) * kShiftOutputs;
    auto* mean = reinterpret_cast<float*>(shared_memory());
    load_mean(arguments, image, slice * kShiftChannels, mean, mean + kShiftChannels);
    multiply(arguments, image, slice, first_output, mean);
  }

 private:
  // A lane sums two channels, a warp every kWarps-th tile; then the sums of the warps are added in their order.
  static DELTACONV_DEVICE void load_mean(const ShiftArguments<T>& arguments, int64_t image, int32_t first, float* mean,
                                         float* warp_sums) {
    constexpr int kLaneChannels = kShiftChannels / kWarp;
    const float* sums = arguments.sums + image * arguments.row_tiles * arguments.channels;
    float mine[kLaneChannels] = {};
    for (int32_t tile = warp_index(); tile < arguments.row_tiles; tile += kWarps) {
      DELTACONV_UNROLL
      for (int n = 0; n < kLaneChannels; ++n) {
        const int32_t channel = first + n * kWarp + lane_index();
        if (channel < arguments.channels) mine[n] += sums[int64_t{tile} * arguments.channels + channel];
      }
    }
    DELTACONV_UNROLL
    for (int n = 0; n < kLaneChannels; ++n) {
      warp_sums[warp_index() * kShiftChannels + n * kWarp + lane_index()] = mine[n];
    }
    sync_block();
    if (thread_index() < kShiftChannels) {
      float sum = 0;
      DELTACONV_UNROLL
      for (int w = 0; w < kWarps; ++w) sum += warp_sums[w * kShiftChannels + thread_index()];
      mean[thread_index()] = sum / static_cast<float>(arguments.pixels);
    }
    sync_block();
  }

  // Eight lanes take an output, 8 channels each.
  static DELTACONV_DEVICE void multiply(const ShiftArguments<T>& arguments, int64_t image, int32_t slice,
                                        int32_t first_output, const float* mean) {
    constexpr int kLanes = kShiftChannels / 8, kAtOnce = kShiftThreads / kLanes;
    const int part = thread_index() % kLanes;
    const int32_t channel = slice * kShiftChannels + 8 * part;
    DELTACONV_UNROLL
    for (int n = 0; n < kShiftOutputs / kAtOnce; ++n) {
      const int32_t output = first_output + n * kAtOnce + thread_index() / kLanes;
      const bool exists = output < arguments.channels;
      float weights[8] = {}, sum = 0;
      if (exists && channel < arguments.channels) {
        unpack<T>(load16_constant(arguments.weight + int64_t{output} * arguments.channels + channel), weights);
      }
      DELTACONV_UNROLL
      for (int e = 0; e < 8; ++e) sum = fused_multiply_add(weights[e], mean[8 * part + e], sum);
      DELTACONV_UNROLL
      for (int mask = 1; mask < kLanes; mask *= 2) sum += shuffle_xor(sum, mask);
      if (!exists || part != 0) continue;
      if (slice == 0) sum += bias(arguments.bias, output) + bias(arguments.more, output);
      arguments.partial[(slice * arguments.images + image) * arguments.channels + output] = sum;
    }
  }

  static DELTACONV_DEVICE float bias(const T* bias, int32_t output) { return bias ? to_float(bias[output]) : 0.0f; }
};

}  // namespace deltaconv::cuda::fused_block

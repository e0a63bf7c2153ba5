// How the fused block's kernels divide their work: facts that the plan and the kernels share.
#pragma once

#include "cuda/device/types.h"

namespace deltaconv::cuda::fused_block {

// Channels of both operands that one step copies to shared memory.
inline constexpr int kProductDepth = 64;

// The results of a matrix product that one CTA computes, and those of each of its warps.
template <int kCtaRows, int kCtaCols, int kRowsOfWarp, int kColsOfWarp, int kStepsHeld>
struct ProductTile {
  static constexpr int kRows = kCtaRows, kCols = kCtaCols;
  static constexpr int kWarpRows = kRowsOfWarp, kWarpCols = kColsOfWarp;
  static constexpr int kSteps = kStepsHeld;  // in shared memory: one in use, the others in flight
  static constexpr int kThreads = kWarp * (kRows / kWarpRows) * (kCols / kWarpCols);
  static_assert(kWarpRows % 16 == 0 && kWarpCols % 16 == 0);

  // One step's operands: [kRows][kProductDepth], then [kCols][kProductDepth].
  static constexpr int kStepElements = (kRows + kCols) * kProductDepth;

  // The sums wait for their neighbours as [kRows][kPitch] float32, where the operands were. Half a warp writes 8 words
  // to each of 4 rows: these rows are 8 banks apart.
  static constexpr int kPitch = kCols + 8;
  static_assert(kPitch % 32 == 8);

  static constexpr int kOperandBytes = 2 * kStepElements * kSteps, kSumBytes = 4 * kRows * kPitch;
  static constexpr int kAddendOffset = kOperandBytes > kSumBytes ? kOperandBytes : kSumBytes;
  static constexpr int kSharedBytes = kAddendOffset + 4 * (kRows > kCols ? kRows : kCols);
};

// Calls visit with each tile that there are kernels of. 160 columns divide the widths of Stable Diffusion's blocks
// (320, 640, 1280) and their halves; 64 columns divide those of PixArt too.
template <class Visit>
void for_each_product_tile(const Visit& visit) {
  visit(ProductTile<64, 64, 32, 32, 5>());  // for launches of few CTAs, which wait for memory
  visit(ProductTile<128, 128, 64, 32, 3>());
  visit(ProductTile<128, 160, 32, 80, 3>());
}

// The tiles of an in-projection that writes channel planes: their rows are output channels, their columns pixels.
template <class Visit>
void for_each_planar_product_tile(const Visit& visit) {
  visit(ProductTile<64, 64, 32, 32, 5>());
  visit(ProductTile<128, 128, 64, 32, 3>());
  visit(ProductTile<160, 128, 80, 32, 3>());
}

// The kernel of the pooled average: threads of a CTA, and the channels of the mean and the outputs that it takes.
inline constexpr int kShiftThreads = 256, kShiftChannels = 64, kShiftOutputs = 128;
inline constexpr int kShiftSharedBytes = (kShiftThreads / kWarp + 1) * kShiftChannels * 4;

}  // namespace deltaconv::cuda::fused_block

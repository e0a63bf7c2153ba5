// How the kernels of the whole block cut their work: facts that the plan and the kernels share.
#pragma once

#include "cuda/device/types.h"

namespace deltaconv::cuda {

// Channels of both operands that are copied to shared memory in a step.
inline constexpr int kProductDepth = 64;

// What a block of threads computes of a product of matrices, and each of its warps.
template <int kBlockRows, int kBlockCols, int kRowsOfWarp, int kColsOfWarp, int kStepsHeld>
struct ProductTile {
  static constexpr int kRows = kBlockRows, kCols = kBlockCols;
  static constexpr int kWarpRows = kRowsOfWarp, kWarpCols = kColsOfWarp;
  static constexpr int kSteps = kStepsHeld;  // in shared memory: one in use, the others under way
  static constexpr int kThreads = kWarp * (kRows / kWarpRows) * (kCols / kWarpCols);
  static_assert(kWarpRows % 16 == 0 && kWarpCols % 16 == 0);

  // Of one step: [kRows][kProductDepth], then [kCols][kProductDepth].
  static constexpr int kStepElements = (kRows + kCols) * kProductDepth;

  // The sums wait for their neighbours as [kRows][kPitch] float32 where the operands were. A half warp writes
  // 8 words of 4 rows: 8 banks apart.
  static constexpr int kPitch = kCols + 8;
  static_assert(kPitch % 32 == 8);

  static constexpr int kOperandBytes = 2 * kStepElements * kSteps, kSumBytes = 4 * kRows * kPitch;
  static constexpr int kAddendOffset = kOperandBytes > kSumBytes ? kOperandBytes : kSumBytes;
  static constexpr int kSharedBytes = kAddendOffset + 4 * kCols;
};

// Calls visit with each tile that there are kernels of. 160 columns divide the widths of Stable Diffusion's
// blocks, 320, 640 and 1280, and their halves; 64 those of PixArt too.
template <class Visit>
void for_each_product_tile(const Visit& visit) {
  visit(ProductTile<64, 64, 32, 32, 5>());  // for few blocks, which wait for memory
  visit(ProductTile<128, 128, 64, 32, 3>());
  visit(ProductTile<128, 160, 32, 80, 3>());
}

// The kernel of the pooled average: channels of the mean and outputs that a block takes.
inline constexpr int kShiftThreads = 256, kShiftChannels = 64, kShiftOutputs = 128;
inline constexpr int kShiftSharedBytes = (kShiftThreads / kWarp + 1) * kShiftChannels * 4;

}  // namespace deltaconv::cuda

// What CTAs do again and again, and how many instructions of a warp that takes.
#pragma once

#include <array>

#include "cuda/plan/cost.h"

namespace deltaconv::cuda {

// Counts are those of warps: a pixel pair is one for each of 32 threads.
enum Work : int {
  // On tensor cores.
  kWarpStart,     // a warp of the forward or of the launch through the gate, once
  kFilterTap,     // a tap of a kernel row of 32 channels to shared memory
  kPixelPair,     // two pixels of 8 channels to shared memory
  kHalvedPair,    // two pixels pooled from 2 x 2 each
  kPooledPair,    // two pooled pixels, what does not depend on their windows
  kWindowStep,    // two columns of a row of both windows
  kChannel,       // a channel's convolution, once
  kKernelRows,    // two kernel rows of a channel
  kBandWord,      // a word of the banded matrix
  kFragment,      // ldmatrix
  kProduct,       // mma.sync
  kGatedValue,    // an accumulator of u and one of v through the gate
  kStored,        // 8 channels of a pixel stored
  kUpsampled,     // 8 channels of an upsampled pixel stored
  kUpsampledRun,  // two columns of pixels of some cells begun
  kGridPixel,     // 8 channels of the grid, interpolated along its row for two columns of pixels
  kGradient,      // 8 channels of the result's gradient, brought to the stage's grid
  kGradientTap,   // a pixel of it that a reduced pixel's gradient is gathered from
  kPlaneValue,    // an accumulator written to a plane of gradients
  kKeptInputs,    // 16 bytes of a plane of inputs kept
  kAdjointWarp,   // a warp of a flipped convolution, once
  kCopy,          // some rows of a window of a plane to shared memory, 16 bytes a thread
  kFlippedTap,    // a tap of two kernel rows of 16 channels to shared memory
  kSum,           // an accumulator of a flipped convolution to shared memory
  kSumStored,     // 8 channels of a pixel stored
  kSumAdded,      // 8 channels of a reduced stage added to a pixel
  // On CUDA cores.
  kStoringWarp,       // a warp's register tile, begun, gated and stored
  kParkingWarp,       // a warp's register tile, begun, gated and parked, to be upsampled
  kCopiedQuad,        // 16 bytes of float32 to shared memory
  kWidenedQuad,       // 16 bytes of 16-bit values to shared memory
  kPooledQuad,        // 4 pooled values of float32 to shared memory, what does not depend on their window
  kPooledEight,       // 8 pooled values of 16 bits, the same
  kWindowValues,      // 16 bytes of each of 2 x 2 pixels of a window
  kRowMet,            // a row of inputs and a kernel row that meet
  kRead,              // a value read from shared memory
  kMultiplyAdd,       // a multiply-add
  kInterpolated,      // 16 bytes of an upsampled pixel stored
  kInterpolatedGrid,  // 4 channels of the grid, interpolated along its row for two columns of pixels
  kWorks
};

// Instructions, and wavefronts of shared memory.
struct Rate {
  double instructions, wavefronts;
};

// A phase of a CTA: its work, the tensor cores' products of 16 x 8 x 16, the rest as in Phase.
struct WorkPhase {
  std::array<double, kWorks> counts{};
  double products = 0, bytes = 0, waits = 0;
  bool asynchronous = false;

  WorkPhase& add(Work work, double count) {
    counts[work] += count;
    return *this;
  }
};

inline WorkPhase operator+(WorkPhase a, const WorkPhase& b) {
  for (int i = 0; i < kWorks; ++i) a.counts[i] += b.counts[i];
  return {a.counts, a.products + b.products, a.bytes + b.bytes, a.waits + b.waits, a.asynchronous || b.asynchronous};
}

using WorkPhases = std::array<WorkPhase, 4>;

// The phases by the rates of rates.h.
CtaCost cost_of(const WorkPhases& phases);

}  // namespace deltaconv::cuda

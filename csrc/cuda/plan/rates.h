// What a unit of work takes, as the PTX of the kernels has it (compute_90, nvcc 13.0.88). tests/ptx/fit_rates.py fits
// these numbers to the counts of executed CTAs and writes this table.
#pragma once

#include "cuda/plan/work.h"

namespace deltaconv::cuda {

inline constexpr Rate kRates[kWorks] = {
    {536.1, 0.8408},     // kWarpStart
    {13.72, 0.7172},     // kFilterTap
    {156.7, 8.867},      // kPixelPair
    {221.5, 8.928},      // kPooledPair
    {153.4, 0},          // kWindowStep
    {59.15, 0},          // kChannel
    {18.57, 0},          // kKernelRows
    {2.678, 0.8771},     // kBandWord
    {1, 4},              // kFragment
    {1, 0},              // kProduct
    {0, 0.4059},         // kGatedValue
    {123.1, 24.92},      // kStored
    {57.46, 0},          // kUpsampled
    {155.4, 23.27},      // kGridPixel
    {0, 0},              // kGradient
    {80.71, 5.152},      // kGradientTap
    {0, 0},              // kPlaneValue
    {203.5, 22.93},      // kKeptInputs
    {386.3, 0},          // kAdjointWarp
    {121.6, 12.44},      // kCopy
    {4.466, 0},          // kFlippedTap
    {0, 1.546},          // kSum
    {0, 0.1933},         // kSumStored
    {222.4, 1.278e-15},  // kSumAdded
    {1210, 0},           // kStoringWarp
    {962.1, 41.54},      // kParkingWarp
    {38.2, 3.869},       // kCopiedQuad
    {51.69, 16.27},      // kWidenedQuad
    {43.46, 4.728},      // kPooledQuad
    {115.7, 0},          // kWindowValues
    {19.14, 0.124},      // kRowMet
    {1, 1},              // kRead
    {1, 0},              // kMultiplyAdd
    {39.51, 0},          // kInterpolated
    {56.78, 8.177},      // kInterpolatedGrid
};

}  // namespace deltaconv::cuda

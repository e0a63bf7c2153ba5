// What a unit of work takes, as the PTX of the kernels has it (compute_90, nvcc 13.0.88). tests/ptx/fit_rates.py fits
// these numbers to the counts of executed CTAs and writes this table.
#pragma once

#include "cuda/plan/work.h"

namespace deltaconv::cuda {

inline constexpr Rate kRates[kWorks] = {
    {390, 3.112},     // kWarpStart
    {2.569, 1.879},   // kFilterTap
    {48.14, 8.044},   // kPixelPair
    {41.59, 8.044},   // kPooledPair
    {178, 0.04391},   // kWindowStep
    {81.62, 0},       // kChannel
    {11.55, 0},       // kKernelRows
    {3.658, 0.8569},  // kBandWord
    {1, 4},           // kFragment
    {1, 0},           // kProduct
    {0, 0.2052},      // kGatedValue
    {60.2, 16.75},    // kStored
    {39.76, 0},       // kUpsampled
    {151.5, 21.22},   // kGridPixel
    {0, 0},           // kGradient
    {78.15, 5.14},    // kGradientTap
    {0, 0},           // kPlaneValue
    {187.2, 19.94},   // kKeptInputs
    {408, 0},         // kAdjointWarp
    {12.2, 4.2},      // kCopy
    {23.84, 0},       // kFlippedTap
    {8.86, 0},        // kSum
    {1.107, 0},       // kSumStored
    {214.3, 0.5789},  // kSumAdded
    {1228, 0},        // kStoringWarp
    {1068, 41.54},    // kParkingWarp
    {38.69, 3.869},   // kCopiedQuad
    {51.92, 16.27},   // kWidenedQuad
    {42.27, 4.728},   // kPooledQuad
    {108.2, 0},       // kWindowValues
    {14.02, 0.124},   // kRowMet
    {1, 1},           // kRead
    {1, 0},           // kMultiplyAdd
    {41.48, 0},       // kInterpolated
    {36.95, 8.177},   // kInterpolatedGrid
};

}  // namespace deltaconv::cuda

// What a unit of work takes, as the PTX of the kernels has it (compute_90, nvcc 13.0.88). tests/ptx/fit_rates.py fits
// these numbers to the counts of executed CTAs and writes this table.
#pragma once

#include "cuda/plan/work.h"

namespace deltaconv::cuda {

inline constexpr Rate kRates[kWorks] = {
    {367.2, 0.9442},     // kWarpStart
    {4.271, 1.899},      // kFilterTap
    {44.32, 7.247},      // kPixelPair
    {218.3, 8.198},      // kHalvedPair
    {387.5, 7.176},      // kPooledPair
    {80.23, 0.1999},     // kWindowStep
    {111.2, 0},          // kChannel
    {11.44, 0},          // kKernelRows
    {3.127, 0.9136},     // kBandWord
    {1, 4},              // kFragment
    {1, 0},              // kProduct
    {0, 0.9044},         // kGatedValue
    {48.94, 11.33},      // kStored
    {51.28, 0},          // kUpsampled
    {80.01, 16.26},      // kUpsampledRun
    {161.1, 19.87},      // kGridPixel
    {0, 0},              // kGradient
    {45.64, 4.76},       // kGradientTap
    {0, 0},              // kPlaneValue
    {187.4, 20.67},      // kKeptInputs
    {334, 0},            // kAdjointWarp
    {14.37, 4.577},      // kCopy
    {21.87, 1.506},      // kFlippedTap
    {7.229, 1.857},      // kSum
    {0.9037, 0.2322},    // kSumStored
    {129.7, 4.395e-16},  // kSumAdded
    {1270, 0},           // kStoringWarp
    {1012, 35.08},       // kParkingWarp
    {40.4, 3.863},       // kCopiedQuad
    {50.49, 16.32},      // kWidenedQuad
    {41.32, 4.948},      // kPooledQuad
    {91.76, 0},          // kWindowValues
    {12.37, 0.1141},     // kRowMet
    {1, 1},              // kRead
    {1, 0},              // kMultiplyAdd
    {50.46, 0},          // kInterpolated
    {160.3, 0},          // kInterpolatedRun
    {27.23, 9.572},      // kInterpolatedGrid
};

}  // namespace deltaconv::cuda

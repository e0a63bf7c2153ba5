// What a unit of work takes, as the PTX of the kernels has it (compute_90, nvcc 13.0.88). tests/ptx/fit_rates.py fits
// these numbers to the counts of executed CTAs and writes this table.
#pragma once

#include "cuda/plan/work.h"

namespace deltaconv::cuda {

inline constexpr Rate kRates[kWorks] = {
    {367.6, 0.9442},   // kWarpStart
    {4.261, 1.899},    // kFilterTap
    {44.24, 7.247},    // kPixelPair
    {218.3, 8.198},    // kHalvedPair
    {387.5, 7.176},    // kPooledPair
    {80.19, 0.1999},   // kWindowStep
    {111.2, 0},        // kChannel
    {11.44, 0},        // kKernelRows
    {3.126, 0.9136},   // kBandWord
    {1, 4},            // kFragment
    {1, 0},            // kProduct
    {0, 0.9044},       // kGatedValue
    {48.94, 11.33},    // kStored
    {51.31, 0},        // kUpsampled
    {79.8, 16.26},     // kUpsampledRun
    {161, 19.87},      // kGridPixel
    {0, 0},            // kGradient
    {45.54, 4.76},     // kGradientTap
    {0, 0},            // kPlaneValue
    {188.7, 20.67},    // kKeptInputs
    {334, 0},          // kAdjointWarp
    {14.36, 4.577},    // kCopy
    {21.88, 1.506},    // kFlippedTap
    {7.232, 1.857},    // kSum
    {0.904, 0.2322},   // kSumStored
    {129.7, 0},        // kSumAdded
    {1278, 0},         // kStoringWarp
    {850.1, 35.13},    // kParkingWarp
    {37.02, 3.971},    // kCopiedQuad
    {53.26, 15.99},    // kWidenedQuad
    {53.86, 3.96},     // kPooledQuad
    {64.04, 15.97},    // kPooledEight
    {128.3, 0},        // kWindowValues
    {12.59, 0.06887},  // kRowMet
    {1, 1},            // kRead
    {1, 0},            // kMultiplyAdd
    {46.82, 0},        // kInterpolated
    {162.5, 8.41},     // kInterpolatedGrid
};

}  // namespace deltaconv::cuda

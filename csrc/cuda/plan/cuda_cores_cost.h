// What a CTA on CUDA cores does, phase by phase.
#pragma once

#include "cuda/plan/work.h"

namespace deltaconv::cuda::cuda_cores {

// A CTA of the stage, whose results are `upsampled` if it is reduced, loads, convolves, and gates and stores. The
// backward pass's launches are taken to do the same.
WorkPhases cta_work(const PlanProblem& problem, const Stage& stage, bool upsampled);

}  // namespace deltaconv::cuda::cuda_cores

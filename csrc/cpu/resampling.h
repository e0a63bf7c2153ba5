// Builds the banded matrices of a stage: pooling, bilinear upsampling and their adjoints, along one axis.
#pragma once

#include <memory>
#include <vector>

#include "cpu/problem.h"

namespace deltaconv::cpu {

template <class A>
struct BandedMatrix {
  std::vector<Window> windows;
  std::vector<A> weights;  // [windows.size(), pitch]
  int64_t pitch = 0;

  Resample<A> view() const { return {windows.data(), weights.data(), pitch}; }
};

// adaptive_avg_pool: output i averages inputs [floor(i * in / out), ceil((i + 1) * in / out)).
template <class A>
BandedMatrix<A> average_pooling(int64_t in, int64_t out);

// Bilinear interpolation, align_corners=False; source positions are exact rationals.
template <class A>
BandedMatrix<A> bilinear(int64_t in, int64_t out);

template <class A>
BandedMatrix<A> transposed(const BandedMatrix<A>& matrix, int64_t in);

// The plans of all stages and the matrices they point into.
template <class A>
class StagePlans {
 public:
  StagePlans(const Sizes& sizes, const std::vector<int64_t>& factors, bool with_adjoints);
  const StagePlan<A>* data() const { return plans_.data(); }
  const StagePlan<A>& operator[](int64_t stage) const { return plans_[stage]; }

 private:
  Resample<A> keep(BandedMatrix<A> matrix);

  std::vector<StagePlan<A>> plans_;
  std::vector<std::unique_ptr<BandedMatrix<A>>> matrices_;
};

}  // namespace deltaconv::cpu

#include "cpu/resampling.h"

#include <algorithm>

namespace deltaconv::cpu {

template <class A>
BandedMatrix<A> average_pooling(int64_t in, int64_t out) {
  BandedMatrix<A> matrix;
  for (int64_t i = 0; i < out; ++i) {
    const int64_t begin = i * in / out, end = ((i + 1) * in + out - 1) / out;
    matrix.windows.push_back({static_cast<int32_t>(begin), static_cast<int32_t>(end - begin)});
    matrix.pitch = std::max(matrix.pitch, end - begin);
  }
  matrix.weights.assign(out * matrix.pitch, A{0});
  for (int64_t i = 0; i < out; ++i) {
    std::fill_n(matrix.weights.begin() + i * matrix.pitch, matrix.windows[i].count, A{1} / matrix.windows[i].count);
  }
  return matrix;
}

template <class A>
BandedMatrix<A> bilinear(int64_t in, int64_t out) {
  BandedMatrix<A> matrix;
  matrix.pitch = 2;
  for (int64_t i = 0; i < out; ++i) {
    // The position (i + 1/2) * in / out - 1/2, clamped at 0, as a fraction of 2 * out.
    const int64_t position = std::max<int64_t>((2 * i + 1) * in - out, 0);
    const int64_t lower = std::min(position / (2 * out), in - 1);
    const double fraction = static_cast<double>(position - lower * 2 * out) / static_cast<double>(2 * out);
    const bool one = lower == in - 1 || fraction == 0;
    matrix.windows.push_back({static_cast<int32_t>(lower), one ? 1 : 2});
    matrix.weights.push_back(static_cast<A>(one ? 1.0 : 1.0 - fraction));
    matrix.weights.push_back(static_cast<A>(one ? 0.0 : fraction));
  }
  return matrix;
}

template <class A>
BandedMatrix<A> transposed(const BandedMatrix<A>& matrix, int64_t in) {
  const auto out = static_cast<int64_t>(matrix.windows.size());
  BandedMatrix<A> result;
  result.windows.assign(in, {0, 0});
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t k = 0; k < matrix.windows[i].count; ++k) {
      Window& window = result.windows[matrix.windows[i].start + k];
      if (window.count == 0) window.start = static_cast<int32_t>(i);
      window.count = static_cast<int32_t>(i) - window.start + 1;
      result.pitch = std::max<int64_t>(result.pitch, window.count);
    }
  }
  result.weights.assign(in * result.pitch, A{0});
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t k = 0; k < matrix.windows[i].count; ++k) {
      const int64_t j = matrix.windows[i].start + k;
      result.weights[j * result.pitch + i - result.windows[j].start] = matrix.weights[i * matrix.pitch + k];
    }
  }
  return result;
}

template <class A>
StagePlans<A>::StagePlans(const Sizes& sizes, const std::vector<int64_t>& factors, bool with_adjoints) {
  for (const int64_t factor : factors) {
    const int64_t h = sizes.H / factor, w = sizes.W / factor;
    StagePlan<A> plan{factor, h, w, h * factor == sizes.H && w * factor == sizes.W, {}, {}, {}, {}, {}, {}, {}, {}};
    if (factor != 1) {
      plan.pool_rows = keep(average_pooling<A>(sizes.H, h));
      plan.pool_cols = keep(average_pooling<A>(sizes.W, w));
      plan.upsample_rows = keep(bilinear<A>(h, sizes.H));
      plan.upsample_cols = keep(bilinear<A>(w, sizes.W));
    }
    if (factor != 1 && with_adjoints) {
      plan.pool_adjoint_rows = keep(transposed(average_pooling<A>(sizes.H, h), sizes.H));
      plan.pool_adjoint_cols = keep(transposed(average_pooling<A>(sizes.W, w), sizes.W));
      plan.upsample_adjoint_rows = keep(transposed(bilinear<A>(h, sizes.H), h));
      plan.upsample_adjoint_cols = keep(transposed(bilinear<A>(w, sizes.W), w));
    }
    plans_.push_back(plan);
  }
}

template <class A>
Resample<A> StagePlans<A>::keep(BandedMatrix<A> matrix) {
  matrices_.push_back(std::make_unique<BandedMatrix<A>>(std::move(matrix)));
  return matrices_.back()->view();
}

template class StagePlans<float>;
template class StagePlans<double>;

}  // namespace deltaconv::cpu

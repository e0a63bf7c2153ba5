// Where pooling windows and upsampling cells lie along one axis, in exact integer arithmetic. An axis has
// `size` pixels, reduced to size / factor; sizes are below 2^30.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DELTACONV_ANYWHERE __host__ __device__ inline
#else
#define DELTACONV_ANYWHERE inline
#endif

namespace deltaconv::cuda {

struct Axis {
  int32_t size, reduced, factor;

  // Pooling window i is [start, end): floor(i * size / reduced) and ceil((i + 1) * size / reduced). With
  // size = reduced * factor + rest and rest < factor, no product exceeds size.
  DELTACONV_ANYWHERE int32_t window_start(int32_t i) const {
    const int32_t rest = size - reduced * factor;
    return rest == 0 ? i * factor : i * factor + i * rest / reduced;
  }
  DELTACONV_ANYWHERE int32_t window_end(int32_t i) const {
    const int32_t rest = size - reduced * factor;
    const int32_t next = i + 1;
    return rest == 0 ? next * factor : next * factor + (next * rest + reduced - 1) / reduced;
  }

  // The last window that holds pixel y; where factor > 1, only the one before it may hold it too.
  DELTACONV_ANYWHERE int32_t last_window(int32_t y) const {
    if (reduced * factor == size) return y / factor;
    return static_cast<int32_t>(((static_cast<int64_t>(y) + 1) * reduced - 1) / size);
  }

  // Bilinear upsampling (align_corners=False): pixel y lies between reduced pixels m and m + 1, its cell
  // m = floor((y + 1/2) * reduced / size - 1/2), from -1 to reduced - 1. The first pixel of cell m, and size
  // beyond:
  DELTACONV_ANYWHERE int32_t cell_start(int32_t m) const {
    if (m < 0) return 0;
    if (m >= reduced) return size;
    const int64_t twice = 2 * static_cast<int64_t>(reduced);
    const int64_t start = ((2 * static_cast<int64_t>(m) + 1) * size - reduced + twice - 1) / twice;
    return static_cast<int32_t>(start < size ? start : size);
  }
};

// Walks over consecutive pixels with their cell and how far into it they lie, without a division a step.
class UpsampleWalk {
 public:
  DELTACONV_ANYWHERE UpsampleWalk(const Axis& axis, int32_t y)
      : step_(2u * axis.reduced), denominator_(2u * axis.size), scale_(0.5f / static_cast<float>(axis.size)) {
    // Above 0, so that the division rounds down.
    const int64_t shifted = (2 * static_cast<int64_t>(y) + 1) * axis.reduced + axis.size;
    cell_ = static_cast<int32_t>(shifted / denominator_) - 1;
    numerator_ = static_cast<uint32_t>(shifted % denominator_);
  }
  DELTACONV_ANYWHERE void advance() {
    numerator_ += step_;
    if (numerator_ >= denominator_) {
      numerator_ -= denominator_;
      ++cell_;
    }
  }
  // Between reduced pixels cell() and cell() + 1, both to be clamped to the image.
  DELTACONV_ANYWHERE int32_t cell() const { return cell_; }
  DELTACONV_ANYWHERE float fraction() const { return static_cast<float>(numerator_) * scale_; }

 private:
  uint32_t step_, denominator_, numerator_;
  int32_t cell_;
  float scale_;
};

// The pixels [begin, end) that were interpolated from one row or column of a grid. The first is `start` from
// it, in units of the grid, each `step` from the next, all less than one; beyond the grid's ends there is
// nothing else to take from: those that low and high bound have all of it.
struct UpsampledSpan {
  int32_t begin, end;
  float start, step, low, high;

  static DELTACONV_ANYWHERE UpsampledSpan of(const Axis& axis, int32_t at) {
    if (at >= axis.reduced) return {0, 0, 0.0f, 0.0f, 0.0f, 0.0f};
    const int32_t begin = axis.cell_start(at - 1);
    const UpsampleWalk walk(axis, begin);
    return {begin,
            axis.cell_start(at + 1),
            static_cast<float>(walk.cell() - at) + walk.fraction(),
            static_cast<float>(axis.reduced) / static_cast<float>(axis.size),
            at == 0 ? 0.0f : -1.0f,
            at + 1 == axis.reduced ? 0.0f : 1.0f};
  }
  // The part of a pixel that comes from here.
  DELTACONV_ANYWHERE float weight(int32_t pixel) const {
    const float distance = static_cast<float>(pixel - begin) * step + start;
    const float bounded = distance < low ? low : distance > high ? high : distance;
    return 1.0f - (bounded < 0.0f ? -bounded : bounded);
  }
};

}  // namespace deltaconv::cuda

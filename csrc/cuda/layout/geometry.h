// Where pooling windows and upsampling cells lie along one axis, in exact integer arithmetic. An axis has `size`
// pixels, which a stage reduces to size / factor pixels; sizes are below 2^30.
//
//   size 5, factor 2, so 2 reduced pixels
//   pixel                 0    1    2    3    4
//   pooling windows      [0    0    0]              windows share pixel 2, because 5 is no multiple of 2
//                                  [1    1    1]
//   upsampling cell      -1    0    0    0    1     pixel 0 lies before the centre of reduced pixel 0, pixel 4 behind
//                                                   that of reduced pixel 1
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

  // Pooling window i is [start, end) with start = floor(i * size / reduced) and end = ceil((i + 1) * size / reduced).
  // Both are computed from size = reduced * factor + rest, so that no product exceeds size.
  DELTACONV_ANYWHERE int32_t window_start(int32_t i) const {
    const int32_t rest = size - reduced * factor;
    return rest == 0 ? i * factor : i * factor + i * rest / reduced;
  }
  DELTACONV_ANYWHERE int32_t window_end(int32_t i) const {
    const int32_t rest = size - reduced * factor;
    const int32_t next = i + 1;
    return rest == 0 ? next * factor : next * factor + (next * rest + reduced - 1) / reduced;
  }

  // The last window that holds pixel y. Where factor > 1, the window before it may hold the pixel too, and no other.
  DELTACONV_ANYWHERE int32_t last_window(int32_t y) const {
    if (reduced * factor == size) return y / factor;
    return static_cast<int32_t>(((static_cast<int64_t>(y) + 1) * reduced - 1) / size);
  }

  // The first pixel of cell m, or size beyond the last cell. Bilinear upsampling (align_corners=False) takes
  // pixel y from reduced pixels m and m + 1; m = floor((y + 1/2) * reduced / size - 1/2), from -1 to reduced - 1,
  // is the pixel's cell.
  DELTACONV_ANYWHERE int32_t cell_start(int32_t m) const {
    if (m < 0) return 0;
    if (m >= reduced) return size;
    // ((2m + 1) * size - reduced) / (2 * reduced), rounded up, in 32 bits: size = reduced * factor + rest, and rest is
    // less than factor.
    const uint32_t odd = 2u * m + 1, halves = odd * factor - 1, rest = size - reduced * factor;
    const uint32_t beyond = halves % 2 * reduced + odd * rest, twice = 2u * reduced;
    const auto start = static_cast<int32_t>(halves / 2 + (beyond + twice - 1) / twice);
    return start < size ? start : size;
  }
};

// Walks over consecutive pixels and knows the cell of each and how far into the cell it lies, without a
// division a step.
class UpsampleWalk {
 public:
  // The quotient and the remainder of (2y + 1) * reduced + size by 2 * size, in 32 bits. The quotient would be that of
  // 2y + 1 + factor by 2 * factor, if size were reduced * factor; size is less than `factor` larger, and the quotient
  // less than one smaller. The dividend is kept above 0, so that divisions round down.
  DELTACONV_ANYWHERE UpsampleWalk(const Axis& axis, int32_t y)
      : step_(2u * axis.reduced), denominator_(2u * axis.size), scale_(0.5f / static_cast<float>(axis.size)) {
    const uint32_t odd = 2u * y + 1, quotient = (odd + axis.factor) / (2u * axis.factor);
    numerator_ = odd * axis.reduced + axis.size - quotient * denominator_;  // modulo 2^32
    cell_ = static_cast<int32_t>(quotient) - 1;
    if (static_cast<int32_t>(numerator_) < 0) {
      numerator_ += denominator_;
      --cell_;
    }
  }
  DELTACONV_ANYWHERE void advance() {
    numerator_ += step_;
    if (numerator_ >= denominator_) {
      numerator_ -= denominator_;
      ++cell_;
    }
  }
  // The pixel lies between reduced pixels cell() and cell() + 1, both to be clamped to the image.
  DELTACONV_ANYWHERE int32_t cell() const { return cell_; }
  DELTACONV_ANYWHERE float fraction() const { return static_cast<float>(numerator_) * scale_; }

 private:
  uint32_t step_, denominator_, numerator_;
  int32_t cell_;
  float scale_;
};

// The pixels [begin, end) that were interpolated from one row or column of a grid. In units of the grid, the first
// pixel lies `start` from it, and neighbouring pixels lie `step` apart. A pixel's weight falls with its distance, down
// to zero at distance one. Pixels beyond the first or last row of the grid were interpolated from that row alone: `low`
// and `high` bound the distance there, so that their weight is one.
struct UpsampledSpan {
  int32_t begin, end;
  float start, step, low, high;

  static DELTACONV_ANYWHERE UpsampledSpan around(const Axis& axis, int32_t at) {
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
  // The weight that this row or column had in a pixel.
  DELTACONV_ANYWHERE float weight(int32_t pixel) const {
    const float distance = static_cast<float>(pixel - begin) * step + start;
    const float bounded = distance < low ? low : distance > high ? high : distance;
    return 1.0f - (bounded < 0.0f ? -bounded : bounded);
  }
};

}  // namespace deltaconv::cuda

// The convolution on tensor cores by a banded matrix. Per channel, with P the zero-padded plane and w the
// filter, the results of 8 neighbouring columns are a sum over kernel rows kh of 16 rows of P times a banded
// (Toeplitz) matrix T, T[k][n] = w[kh][k - n], added up in the same accumulators. Products are exact and sums
// float32. docs/cuda.md has a picture.
//
//   columns  T is K + 7 high, in kBand blocks of 8 rows. A block of A is 8 columns of the plane; it serves
//   the
//            results of kBand neighbouring column blocks.
//   rows     Row m of accumulator i is row m * kStep + i of the tile, so that the A made of the plane's rows
//            m * kStep + t serves every accumulator i and kernel row kh with i + kh = t.
//   filter   Of block b of T, lane 4 g + q holds w[kh][n], w[kh][n + 1] with n = 2q - g + 8b: one word of the
//            overlapping pairs. A warp needs a kernel row once a tile, so it is read when its turn comes, and
//            any K needs the registers of kStep rows only.
#pragma once

#include <utility>

#include "cuda/banded_tile.h"
#include "cuda/device/mma.h"
#include "cuda/load.h"

namespace deltaconv::cuda {

template <class Banded>
using BandedSums = Accumulator[Banded::kStep][Banded::kBlocks];

// sum += A T; A is blocks kFirst … kFirst + kBand - 1 of `a`. An operand of 16 columns is four registers,
// aligned to four: an even block and the next, as load_blocks returns them. With three blocks the one left
// over goes first or last, so that none has to be copied.
template <class T, int kBand, int kFirst>
DELTACONV_DEVICE void multiply_band(Accumulator& sum, const BlockA* a, const uint32_t* band) {
  constexpr int kSingle = kBand % 2 == 0 ? -1 : kFirst % 2 == 0 ? kBand - 1 : 0;
  if constexpr (kSingle == 0) multiply_add<T>(sum, a[kFirst], band[0]);
  DELTACONV_UNROLL
  for (int b = kSingle == 0; b + 1 < kBand; b += 2) {
    multiply_add<T>(sum, a[kFirst + b], a[kFirst + b + 1], band[b], band[b + 1]);
  }
  if constexpr (kSingle > 0) multiply_add<T>(sum, a[kFirst + kSingle], band[kSingle]);
}

// The correlation of one plane with one filter, by one warp.
template <class T, class Banded>
class BandedConvolution {
 public:
  DELTACONV_DEVICE BandedConvolution(const T* plane, const uint32_t* filter, int K)
      : K_(K),
        rows_(plane + lane_index() % 16 * Banded::kPitch + lane_index() / 16 * 8),
        first_tap_(lane_index() % 4 * 2 - lane_index() / 4),
        filter_(filter + first_tap_ + 1) {}

  DELTACONV_DEVICE void add_to(BandedSums<Banded>& sums) const {
    uint32_t band[kStep][Banded::kBand];  // T of kernel rows t, t - 1, …
    if constexpr (kStep == 1) {
      DELTACONV_NO_UNROLL
      for (int t = 0; t < K_; ++t) add_row<0, 1>(t, band, sums);
    } else {
      static_assert(kStep == 2);
      add_row<0, 1>(0, band, sums);
      DELTACONV_NO_UNROLL
      for (int t = 1; t < K_; ++t) add_row<0, 2>(t, band, sums);
      add_row<1, 2>(K_, band, sums);
    }
  }

 private:
  static constexpr int kStep = Banded::kStep, kBlocks = Banded::kBlocks;

  // The plane's rows m * kStep + t, for accumulators kFirst … kLast - 1.
  template <int kFirst, int kLast>
  DELTACONV_DEVICE void add_row(int t, uint32_t (&band)[kStep][Banded::kBand],
                                BandedSums<Banded>& sums) const {
    if constexpr (kFirst == 0) load_band(t, band[0]);
    BlockA a[Banded::kLoads];
    const T* row = rows_ + Banded::stored_row(t, K_) * Banded::kPitch;
    DELTACONV_UNROLL
    for (int c = 0; c + 1 < Banded::kLoads; c += 2) load_blocks(row + 8 * c, a[c], a[c + 1]);
    if constexpr (Banded::kLoads % 2 == 1) load_block(row + 8 * (Banded::kLoads - 1), a[Banded::kLoads - 1]);
    DELTACONV_UNROLL
    for (int i = kFirst; i < kLast; ++i) {
      multiply_row(sums[i], a, band[i], std::make_integer_sequence<int, kBlocks>());
    }
    DELTACONV_UNROLL
    for (int i = kStep - 1; i > 0; --i) {
      DELTACONV_UNROLL
      for (int b = 0; b < Banded::kBand; ++b) band[i][b] = band[i - 1][b];
    }
  }

  template <int... c>
  static DELTACONV_DEVICE void multiply_row(Accumulator (&sums)[kBlocks], const BlockA* a,
                                            const uint32_t* band, std::integer_sequence<int, c...>) {
    (multiply_band<T, Banded::kBand, c>(sums[c], a, band), ...);
  }

  DELTACONV_DEVICE void load_band(int kernel_row, uint32_t (&band)[Banded::kBand]) const {
    const uint32_t* row = filter_ + kernel_row * (K_ + 1);
    DELTACONV_UNROLL
    for (int b = 0; b < Banded::kBand; ++b) {
      const int tap = first_tap_ + 8 * b;
      band[b] = -1 <= tap && tap < K_ ? row[8 * b] : 0;
    }
  }

  int K_;
  const T* rows_;           // this lane's row of the first ldmatrix
  int first_tap_;           // 2q - g
  const uint32_t* filter_;  // the pair that begins with first_tap_, in kernel row 0
};

// How the pixels of a plane are read: a load of 16 bytes each, such loads for each pixel of its pooling
// window, or one value after the other where alignment or the number of channels forbids them.
enum class Loading { kDirect, kPooled, kScalar };

// Two neighbouring reduced pixels, 8 channels of each half, in storage type; zero outside the grid.
struct PixelPair {
  Quad of[2][2];  // [half][pixel]
};

// Where a pair is read: `channels` of the 8 exist; the second pixel is not needed at the end of a row.
template <class T>
struct PixelPlace {
  const T* from;  // the first of the 8 channels, at pixel (0, 0)
  int32_t channels, row, col;
  bool second;

  DELTACONV_DEVICE bool exists(const Source<T>& source, int pixel) const {
    const int32_t at = col + pixel;
    return channels > 0 && 0 <= row && row < source.rows.reduced && 0 <= at && at < source.cols.reduced &&
           (pixel == 0 || second);
  }
};

// The means of the windows, summed row by row. The loads of two columns of all four windows are under way
// together.
template <class T>
DELTACONV_DEVICE PixelPair load_means(const Source<T>& source, const PixelPlace<T>& place) {
  constexpr int kTogether = 2;
  float sums[2][2][8] = {}, weights[2] = {};
  int32_t left[2] = {}, right[2] = {}, top = 0, bottom = 0, widest = 0;
  DELTACONV_UNROLL
  for (int n = 0; n < 2; ++n) {
    if (!place.exists(source, n)) continue;
    top = source.rows.window_start(place.row);
    bottom = source.rows.window_end(place.row);
    left[n] = source.cols.window_start(place.col + n);
    right[n] = source.cols.window_end(place.col + n);
    const int32_t width = right[n] - left[n];
    weights[n] = 1.0f / (static_cast<float>(bottom - top) * static_cast<float>(width));
    widest = width > widest ? width : widest;
  }
  for (int32_t y = top; y < bottom; ++y) {
    const T* line = place.from + y * source.row_stride;
    for (int32_t first = 0; first < widest; first += kTogether) {
      Quad loaded[2][2][kTogether];
      DELTACONV_UNROLL
      for (int i = 0; i < 4 * kTogether; ++i) {
        const int half = i / kTogether / 2, n = i / kTogether % 2, k = i % kTogether;
        const int32_t x = left[n] + first + k;
        loaded[half][n][k] =
            x < right[n] ? load16_constant(line + half * source.half_stride + x * source.col_stride) : Quad{};
      }
      DELTACONV_UNROLL
      for (int i = 0; i < 4 * kTogether; ++i) {
        const int half = i / kTogether / 2, n = i / kTogether % 2;
        float values[8];
        unpack<T>(loaded[half][n][i % kTogether], values);
        DELTACONV_UNROLL
        for (int e = 0; e < 8; ++e) sums[half][n][e] += values[e];
      }
    }
  }
  PixelPair pair;
  DELTACONV_UNROLL
  for (int i = 0; i < 4; ++i) {
    DELTACONV_UNROLL
    for (float& value : sums[i / 2][i % 2]) value *= weights[i % 2];
    pair.of[i / 2][i % 2] = pack<T>(sums[i / 2][i % 2]);
  }
  return pair;
}

template <Loading kLoading, class T>
DELTACONV_DEVICE PixelPair load_pair(const Source<T>& source, const PixelPlace<T>& place) {
  if constexpr (kLoading == Loading::kPooled) {
    return load_means(source, place);
  } else {
    PixelPair pair;
    DELTACONV_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int half = i / 2, n = i % 2;
      const T* from = place.from + half * source.half_stride;
      Quad& pixel = pair.of[half][n];
      if constexpr (kLoading == Loading::kDirect) {
        const int64_t at = place.row * source.row_stride + (place.col + n) * source.col_stride;
        pixel = place.exists(source, n) ? load16_constant(from + at) : Quad{};
      } else {
        float values[8] = {};
        if (place.exists(source, n)) {
          load_pixel(source, from, place.channels, place.row, place.col + n, values);
        }
        pixel = pack<T>(values);
      }
    }
    return pair;
  }
}

// Global -> shared memory: the padded planes for the tile whose first result is (row, col) of the grid. The
// whole block takes part. A thread takes a pair of pixels and writes a word to each of 16 planes.
template <Loading kLoading, class T, class Banded>
DELTACONV_DEVICE void load_planes(const Source<T>& source, int row, int col, int K, std::byte* planes) {
  constexpr int kWords = Banded::kPitch / 2;
  const int pair_bytes = Banded::pair_bytes(K), plane_bytes = Banded::plane_elements(K) * 2;
  const int count = Banded::plane_rows(K) * kWords * 2, needed_cols = Banded::kCols + K - 1;
  for (int i = thread_index(); i < count; i += thread_count()) {
    const int eight = i % 2, word = i / 2, first = word % kWords * 2;
    const PixelPlace<T> place{source.data + 8 * eight,
                              first < needed_cols ? source.channels - 8 * eight : 0,  // T is zero beyond
                              row - K / 2 + Banded::plane_row(word / kWords, K), col - K / 2 + first,
                              first + 1 < needed_cols};
    const PixelPair pair = load_pair<kLoading>(source, place);
    DELTACONV_UNROLL
    for (int half = 0; half < 2; ++half) {
      std::byte* to = planes + eight * pair_bytes + half * plane_bytes + word * 4;
      DELTACONV_UNROLL
      for (int e = 0; e < 8; ++e) {
        const uint32_t left = pair.of[half][0].words[e / 2], right = pair.of[half][1].words[e / 2];
        const uint32_t both =
            e % 2 == 0 ? (left & 0xffffu) | right << 16 : left >> 16 | (right & 0xffff0000u);
        *reinterpret_cast<uint32_t*>(to + banded_slot(e) * pair_bytes) = both;
      }
    }
  }
}

template <class T, class Banded>
DELTACONV_DEVICE void load_planes(const Source<T>& source, int row, int col, int K, std::byte* planes) {
  if (!source.vectors) {
    load_planes<Loading::kScalar, T, Banded>(source, row, col, K, planes);
  } else if (source.rows.factor == 1) {
    load_planes<Loading::kDirect, T, Banded>(source, row, col, K, planes);
  } else {
    load_planes<Loading::kPooled, T, Banded>(source, row, col, K, planes);
  }
}

// The filters of the block's channels. A lane is a channel, a warp takes a kernel row, some taps at a time so
// that their loads are under way together.
template <class T, class Banded>
DELTACONV_DEVICE void load_filters(const Source<T>& filters, int K, uint32_t* shared) {
  constexpr int kTaps = 8;
  const int channel = lane_index() % kBandedPairs, half = lane_index() / kBandedPairs;
  const bool exists = channel < filters.channels;
  const T* from = filters.data + half * filters.half_stride + channel;
  uint32_t* to = shared + (2 * banded_slot(channel) + half) * Banded::filter_words(K);
  for (int row = warp_index(); row < K; row += thread_count() / kWarp) {
    uint32_t before = 0;
    for (int first = 0; first <= K; first += kTaps) {
      uint32_t taps[kTaps];
      DELTACONV_UNROLL
      for (int k = 0; k < kTaps; ++k) {
        const T* tap = from + row * filters.row_stride + (first + k) * filters.col_stride;
        taps[k] = exists && first + k < K ? tap->bits : 0;
      }
      DELTACONV_UNROLL
      for (int k = 0; k < kTaps; ++k) {
        if (first + k <= K) to[row * (K + 1) + first + k] = before | taps[k] << 16;
        before = taps[k];
      }
    }
  }
}

}  // namespace deltaconv::cuda

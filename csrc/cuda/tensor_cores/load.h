// Pixels and filters from global memory into the shared memory of banded_tile.h.
#pragma once

#include "cuda/frame/load.h"
#include "cuda/layout/banded_tile.h"

namespace deltaconv::cuda::tensor_cores {

// How the pixels of a plane are read. kDirect: one load of 16 bytes for each pixel. kHalved: four such loads, where
// every pooling window has 2 x 2 pixels. kPooled: such loads for each pixel of any pooling window. kScalar: one value
// after the other, where alignment or the number of channels forbids wider loads.
enum class Loading { kDirect, kHalved, kPooled, kScalar };

// A thread takes runs of neighbouring reduced pixels of a row, 8 channels of one half of each, and writes the run of
// each channel to the channel's plane. Where a pixel takes one load, a run has 8 pixels: the loads of all of them are
// in flight together, and a plane gets 16 bytes at once. Where a pixel takes four loads, a run has 4 pixels.
template <Loading kLoading>
inline constexpr int kRunOf = kLoading == Loading::kDirect   ? 8
                              : kLoading == Loading::kHalved ? 4
                                                             : 2;

// Where a run is read, and where it goes. Pixels that do not exist are zeros.
template <class T>
struct RunPlace {
  const T* from;     // the first of the 8 channels, at pixel (0, 0); where the run does not exist, some that do
  int32_t row, col;  // the first pixel, which may be left of the grid
  int32_t end;       // pixels from this column on do not exist; 0 where the whole run does not
  int32_t channels;  // those of the 8 that exist
  std::byte* to;     // in the plane of the first channel

  DELTACONV_DEVICE bool exists(int n) const { return static_cast<uint32_t>(col + n) < static_cast<uint32_t>(end); }
};

// The functions below load a run as words of two neighbouring pixels, words[channel][pixels].
//
//   pixels         channels 0 1 2 ... of pixel x, and of pixel x + 1
//   words[0][0]    (x.0, (x + 1).0)
//   words[1][0]    (x.1, (x + 1).1)     and so on
template <class T>
DELTACONV_DEVICE void load_direct_run(const Source<T>& source, const RunPlace<T>& place, uint32_t (&words)[8][4]) {
  Quad pixels[8];
  const T* from = place.from + place.row * source.row_stride + place.col * source.col_stride;
  DELTACONV_UNROLL
  for (int n = 0; n < 8; ++n, from += source.col_stride) {
    pixels[n] = place.exists(n) ? load16_constant(from) : Quad{};
  }
  DELTACONV_UNROLL
  for (int i = 0; i < 4; ++i) {
    DELTACONV_UNROLL
    for (int n = 0; n < 4; ++n) {
      words[2 * i][n] = join_low(pixels[2 * n].words[i], pixels[2 * n + 1].words[i]);
      words[2 * i + 1][n] = join_high(pixels[2 * n].words[i], pixels[2 * n + 1].words[i]);
    }
  }
}

// Rounds two pixels, multiplied by their weights, to the storage type.
template <class T>
DELTACONV_DEVICE void pack_run(const float (&left)[8], float left_weight, const float (&right)[8], float right_weight,
                               uint32_t (&words)[8][1]) {
  DELTACONV_UNROLL
  for (int e = 0; e < 8; ++e) words[e][0] = pack_pair<T>(left[e] * left_weight, right[e] * right_weight);
}

// Where a pixel does not exist, the first one of the image is read and then left out of the words: a branch around the
// loads would keep them from being in flight together, and would have their registers set to zero.
template <class T>
DELTACONV_DEVICE void load_halved_run(const Source<T>& source, const RunPlace<T>& place, uint32_t (&words)[8][2]) {
  const T* from = place.from + 2 * (place.row * source.row_stride + place.col * source.col_stride);
  // Two pixels at a time: the registers of more are taken where u waits in accumulators.
  DELTACONV_NO_UNROLL
  for (int first = 0; first < 4; first += 2) {
    Quad loaded[2][4];  // [window][row and column]
    DELTACONV_UNROLL
    for (int n = 0; n < 2; ++n, from += 2 * source.col_stride) {
      const T* window = place.exists(first + n) ? from : place.from;
      DELTACONV_UNROLL
      for (int i = 0; i < 4; ++i) {
        loaded[n][i] = load16_constant(window + i / 2 * source.row_stride + i % 2 * source.col_stride);
      }
    }
    float sums[2][8];
    DELTACONV_UNROLL
    for (int i = 0; i < 8; ++i) {
      float values[8];
      unpack<T>(loaded[i / 4][i % 4], values);
      DELTACONV_UNROLL
      for (int e = 0; e < 8; ++e) sums[i / 4][e] = i % 4 == 0 ? values[e] : sums[i / 4][e] + values[e];
    }
    const uint32_t kept = (place.exists(first) ? 0xffffu : 0) | (place.exists(first + 1) ? 0xffff0000u : 0);
    DELTACONV_UNROLL
    for (int e = 0; e < 8; ++e) {
      words[e][0] = words[e][1];
      words[e][1] = pack_pair<T>(sums[0][e] * 0.25f, sums[1][e] * 0.25f) & kept;
    }
  }
}

// Reads the means of both pooling windows, row by row. The loads of two columns of both windows are in flight together.
template <class T>
DELTACONV_DEVICE void load_pooled_run(const Source<T>& source, const RunPlace<T>& place, uint32_t (&words)[8][1]) {
  float sums[2][8] = {}, weights[2] = {};
  int32_t left[2] = {}, right[2] = {}, top = 0, bottom = 0, widest = 0;
  DELTACONV_UNROLL
  for (int n = 0; n < 2; ++n) {
    if (!place.exists(n)) continue;
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
    for (int32_t first = 0; first < widest; first += 2) {
      Quad loaded[2][2];  // [window][column]
      DELTACONV_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int32_t x = left[i / 2] + first + i % 2;
        loaded[i / 2][i % 2] = x < right[i / 2] ? load16_constant(line + x * source.col_stride) : Quad{};
      }
      DELTACONV_UNROLL
      for (int i = 0; i < 4; ++i) {
        float values[8];
        unpack<T>(loaded[i / 2][i % 2], values);
        DELTACONV_UNROLL
        for (int e = 0; e < 8; ++e) sums[i / 2][e] += values[e];
      }
    }
  }
  pack_run<T>(sums[0], weights[0], sums[1], weights[1], words);
}

template <class T>
DELTACONV_DEVICE void load_scalar_run(const Source<T>& source, const RunPlace<T>& place, uint32_t (&words)[8][1]) {
  float left[8] = {}, right[8] = {};
  if (place.exists(0)) load_pixel(source, place.from, place.channels, place.row, place.col, left);
  if (place.exists(1)) load_pixel(source, place.from, place.channels, place.row, place.col + 1, right);
  pack_run<T>(left, 1.0f, right, 1.0f, words);
}

template <int kRun>
DELTACONV_DEVICE void store_run(const uint32_t (&words)[8][kRun / 2], std::byte* to, int pair_bytes) {
  DELTACONV_UNROLL
  for (int e = 0; e < 8; ++e) {
    std::byte* plane = to + banded_slot(e) * pair_bytes;
    if constexpr (kRun == 8) {
      store16(plane, {{words[e][0], words[e][1], words[e][2], words[e][3]}});
    } else if constexpr (kRun == 4) {
      *reinterpret_cast<WordPair*>(plane) = {{words[e][0], words[e][1]}};
    } else {
      *reinterpret_cast<uint32_t*>(plane) = words[e][0];
    }
  }
}

// Loads the padded planes of one half of the channels for the tile whose first result is (row, col) of the grid. The
// whole CTA takes part, each thread when it likes. Neighbouring lanes take both eights of channels, the runs of 8
// columns, 4 stored rows: 128 bytes of all banks.
template <Loading kLoading, class T, class Banded>
DELTACONV_DEVICE void load_planes(const Source<T>& source, int half, int row, int col, int K, std::byte* planes) {
  constexpr int kRun = kRunOf<kLoading>, kRuns = 8 / kRun, kRows = 4;
  const int plane_rows = Banded::plane_rows(K), pair_bytes = Banded::pair_bytes(K);
  const int count = (plane_rows + kRows - 1) / kRows * Banded::kLoads * (2 * kRuns * kRows);
  planes += half * (Banded::plane_elements(K) * 2);
  const T* data = source.data + half * source.half_stride;
  row -= K / 2;
  col -= K / 2;
  int end = col + Banded::kCols + K - 1;  // T is zero beyond
  if (source.cols.reduced < end) end = source.cols.reduced;
  DELTACONV_NO_UNROLL
  for (int i = fresh(thread_index()); i < count; i += thread_count()) {
    const auto item = static_cast<uint32_t>(i);
    const int eight = item % 2, run = item / 2 % kRuns, columns = item / (2 * kRuns * kRows) % Banded::kLoads;
    const int stored = item / (2 * kRuns * kRows) / Banded::kLoads * kRows + item / (2 * kRuns) % kRows;
    if (stored >= plane_rows) continue;
    const int first = 8 * columns + kRun * run, channels = source.channels - 8 * eight;
    const int32_t y = row + Banded::plane_row(stored, K);
    const bool exists = channels > 0 && 0 <= y && y < source.rows.reduced;
    const RunPlace<T> place{data + (channels > 0 ? 8 * eight : 0),
                            y,
                            col + first,
                            exists ? end : 0,
                            channels,
                            planes + eight * pair_bytes + (stored * Banded::kPitch + first) * 2};
    uint32_t words[8][kRun / 2];
    if constexpr (kLoading == Loading::kDirect) {
      load_direct_run(source, place, words);
    } else if constexpr (kLoading == Loading::kHalved) {
      load_halved_run(source, place, words);
    } else if constexpr (kLoading == Loading::kPooled) {
      load_pooled_run(source, place, words);
    } else {
      load_scalar_run(source, place, words);
    }
    store_run<kRun>(words, place.to, pair_bytes);
  }
}

template <class T, class Banded>
DELTACONV_DEVICE void load_planes(const Source<T>& source, int half, int row, int col, int K, std::byte* planes) {
  if (!source.vectors) {
    load_planes<Loading::kScalar, T, Banded>(source, half, row, col, K, planes);
  } else if (source.rows.factor == 1) {
    load_planes<Loading::kDirect, T, Banded>(source, half, row, col, K, planes);
  } else if (source.rows.size == 2 * source.rows.reduced && source.cols.size == 2 * source.cols.reduced) {
    load_planes<Loading::kHalved, T, Banded>(source, half, row, col, K, planes);
  } else {
    load_planes<Loading::kPooled, T, Banded>(source, half, row, col, K, planes);
  }
}

// One kernel row of the filters of the CTA's channels. A lane takes 8 channels of one half, and of each 8 taps one. It
// stores the word that ends with its tap, and gets the tap before from the lane that has it. Other loads may be issued
// between fetch() and store(), which waits.
template <class T, class Banded>
class FilterRow {
 public:
  DELTACONV_DEVICE FilterRow(const Source<T>& filters, int K)
      : filters_(filters), K_(K), eight_(lane_index() % 2), half_(lane_index() / 2 % 2), tap_(lane_index() / 4) {}

  DELTACONV_DEVICE void fetch(int row) {
    const int32_t channels = row < K_ ? filters_.channels - 8 * eight_ : 0;
    const T* from = filters_.data + half_ * filters_.half_stride + 8 * eight_ + row * filters_.row_stride;
    DELTACONV_UNROLL
    for (int b = 0; b < Banded::kBand; ++b) {
      const int tap = 8 * b + tap_;
      taps_[b] = {};
      if (tap < K_ && channels > 0) taps_[b] = load_taps(from + tap * filters_.col_stride, channels);
    }
  }

  DELTACONV_DEVICE void store(int row, uint32_t* shared) const {
    if (row >= K_) return;
    const int words = Banded::filter_words(K_), before = (lane_index() + kWarp - 4) % kWarp;
    uint32_t* to = shared + (2 * banded_slot(8 * eight_) + half_) * words + row * (K_ + 1) + tap_;
    DELTACONV_UNROLL
    for (int b = 0; b < Banded::kBand; ++b, to += 8) {
      if (8 * b > K_) break;
      DELTACONV_UNROLL
      for (int i = 0; i < 4; ++i) {
        // The lanes of tap 7 are before those of tap 0 of the next 8.
        const uint32_t last = b > 0 ? taps_[b > 0 ? b - 1 : 0].words[i] : 0;
        const uint32_t left = shuffle(tap_ == 7 ? last : taps_[b].words[i], before), right = taps_[b].words[i];
        if (8 * b + tap_ > K_) continue;
        to[2 * banded_slot(2 * i) * words] = join_low(left, right);
        to[2 * banded_slot(2 * i + 1) * words] = join_high(left, right);
      }
    }
  }

 private:
  DELTACONV_DEVICE Quad load_taps(const T* from, int32_t channels) const {
    if (filters_.vectors) return load16_constant(from);
    float values[8];
    load_channels(from, channels, false, values);
    return pack<T>(values);
  }

  const Source<T>& filters_;
  int K_, eight_, half_, tap_;
  Quad taps_[Banded::kBand];
};

// Loads the kernel rows of the filters from first_row on, one row for each warp at a time.
template <class T, class Banded>
DELTACONV_DEVICE void load_filters(const Source<T>& filters, int first_row, int K, uint32_t* shared) {
  FilterRow<T, Banded> taps(filters, K);
  DELTACONV_NO_UNROLL
  for (int row = first_row; row < K; row += thread_count() / kWarp) {
    taps.fetch(row);
    taps.store(row, shared);
  }
}

// Loads all kernel rows of the filters.
template <class T, class Banded>
DELTACONV_DEVICE void load_filters(const Source<T>& filters, int K, uint32_t* shared) {
  load_filters<T, Banded>(filters, warp_index(), K, shared);
}

// The biases of the CTA's channels, or zeros: one in each of the first threads, loaded by the constructor.
template <class T, class Banded>
class Biases {
 public:
  DELTACONV_DEVICE Biases(const T* bias, const Sizes& sizes, int32_t stage, int32_t first_channel) {
    const int32_t channel = first_channel + thread_index() / 2;
    if (!bias || !mine() || channel >= sizes.C / 2) return;
    value_ = to_float(bias[stage * sizes.C + thread_index() % 2 * (sizes.C / 2) + channel]);
  }
  // Stores each behind its filter.
  DELTACONV_DEVICE void store(int K, uint32_t* filters) const {
    if (!mine()) return;
    const int filter = 2 * banded_slot(thread_index() / 2) + thread_index() % 2;
    filters[filter * Banded::filter_words(K) + Banded::bias_word(K)] = float_to_bits(value_);
  }

 private:
  static DELTACONV_DEVICE bool mine() { return thread_index() < 2 * kBandedPairs; }
  float value_ = 0.0f;
};

}  // namespace deltaconv::cuda::tensor_cores

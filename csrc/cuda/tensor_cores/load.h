// Pixels and filters from global memory into the shared memory of banded_tile.h.
#pragma once

#include "cuda/frame/load.h"
#include "cuda/layout/banded_tile.h"

namespace deltaconv::cuda::tensor_cores {

// How the pixels of a plane are read. kDirect: one load of 16 bytes for each pixel. kPooled: such loads for each
// pixel of the pooling window. kScalar: one value after the other, where alignment or the number of channels
// forbids wider loads.
enum class Loading { kDirect, kPooled, kScalar };

// Two neighbouring reduced pixels, 8 channels of one half of each, in storage type; zero outside the grid.
struct PixelPair {
  Quad pixels[2];
};

// Where a pair of pixels is read, and where its words go.
template <class T>
struct PixelPlace {
  const T* from;  // the first of the 8 channels, at pixel (0, 0)
  int32_t row, col;
  int32_t channels;  // those of the 8 that exist
  int32_t count;     // pixels that exist from the first on, up to two; the first may be left of the grid
  std::byte* to;

  DELTACONV_DEVICE bool exists(int n) const { return n < count && col + n >= 0; }
};

// Reads the means of both pooling windows, row by row. The loads of two columns of both windows are in flight together.
template <class T>
DELTACONV_DEVICE PixelPair load_means(const Source<T>& source, const PixelPlace<T>& place) {
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
  PixelPair pair;
  DELTACONV_UNROLL
  for (int n = 0; n < 2; ++n) {
    DELTACONV_UNROLL
    for (float& value : sums[n]) value *= weights[n];
    pair.pixels[n] = pack<T>(sums[n]);
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
    for (int n = 0; n < 2; ++n) {
      if constexpr (kLoading == Loading::kDirect) {
        const int64_t at = place.row * source.row_stride + (place.col + n) * source.col_stride;
        pair.pixels[n] = place.exists(n) ? load16_constant(place.from + at) : Quad{};
      } else {
        float values[8] = {};
        if (place.exists(n)) {
          load_pixel(source, place.from, place.channels, place.row, place.col + n, values);
        }
        pair.pixels[n] = pack<T>(values);
      }
    }
    return pair;
  }
}

// Stores a word to each of 8 planes: both pixels of one channel.
//
//   pair           channel 0 1 2 ... of pixel x, and of pixel x + 1
//   plane of 0     (x.0, (x + 1).0)
//   plane of 1     (x.1, (x + 1).1)     and so on
DELTACONV_DEVICE void store_pair(const PixelPair& pair, std::byte* to, int pair_bytes) {
  DELTACONV_UNROLL
  for (int e = 0; e < 8; ++e) {
    const uint32_t left = pair.pixels[0].words[e / 2], right = pair.pixels[1].words[e / 2];
    *reinterpret_cast<uint32_t*>(to + banded_slot(e) * pair_bytes) =
        e % 2 == 0 ? (left & 0xffffu) | right << 16 : left >> 16 | (right & 0xffff0000u);
  }
}

// Loads the padded planes of one half of the channels for the tile whose first result is (row, col) of the grid. The
// whole CTA takes part, each thread when it likes. A thread takes pairs of pixels, and the loads of several pairs are
// in flight together.
template <Loading kLoading, class T, class Banded>
DELTACONV_DEVICE void load_planes(const Source<T>& source, int half, int row, int col, int K, std::byte* planes) {
  // Pairs in flight: all that a thread of 512 has to read of a 32 x 32 tile up to K = 17.
  constexpr int kTogether = kLoading != Loading::kDirect ? 1 : Banded::kFragments == 4 ? 5 : 3;
  constexpr int kWords = Banded::kLoads * 4;
  const int pair_bytes = Banded::pair_bytes(K);
  const int count = Banded::plane_rows(K) * kWords * 2, needed_cols = Banded::kCols + K - 1;
  planes += half * (Banded::plane_elements(K) * 2);
  const T* data = source.data + half * source.half_stride;
  const auto place_of = [&](int i) {
    const int eight = i % 2, word = i / 2 % kWords, stored = i / 2 / kWords;
    const int32_t y = row - K / 2 + Banded::plane_row(stored, K), x = col - K / 2 + 2 * word;
    const int32_t channels = source.channels - 8 * eight;
    int32_t pixels = source.cols.reduced - x;
    if (needed_cols - 2 * word < pixels) pixels = needed_cols - 2 * word;  // T is zero beyond
    if (channels <= 0 || y < 0 || y >= source.rows.reduced) pixels = 0;
    std::byte* to = planes + eight * pair_bytes + (stored * Banded::kPitch + 2 * word) * 2;
    return PixelPlace<T>{data + 8 * eight, y, x, channels, pixels, to};
  };
  for (int first = fresh(thread_index()); first < count; first += kTogether * thread_count()) {
    PixelPair pairs[kTogether];
    DELTACONV_UNROLL
    for (int j = 0; j < kTogether; ++j) {
      const int i = first + j * thread_count();
      pairs[j] = i < count ? load_pair<kLoading>(source, place_of(i)) : PixelPair{};
    }
    DELTACONV_UNROLL
    for (int j = 0; j < kTogether; ++j) {
      const int i = first + j * thread_count();
      if (i < count) store_pair(pairs[j], place_of(i).to, pair_bytes);
    }
  }
}

template <class T, class Banded>
DELTACONV_DEVICE void load_planes(const Source<T>& source, int half, int row, int col, int K, std::byte* planes) {
  if (!source.vectors) {
    load_planes<Loading::kScalar, T, Banded>(source, half, row, col, K, planes);
  } else if (source.rows.factor == 1) {
    load_planes<Loading::kDirect, T, Banded>(source, half, row, col, K, planes);
  } else {
    load_planes<Loading::kPooled, T, Banded>(source, half, row, col, K, planes);
  }
}

// One kernel row of the filters of the CTA's channels; a lane is a channel. Other loads may be issued between fetch()
// and store(), which waits.
template <class T, class Banded>
class FilterRow {
 public:
  DELTACONV_DEVICE FilterRow(const Source<T>& filters, int K)
      : filters_(filters), K_(K), channel_(lane_index() % kBandedPairs), half_(lane_index() / kBandedPairs) {}

  DELTACONV_DEVICE void fetch(int row) {
    const bool exists = row < K_ && channel_ < filters_.channels;
    const T* from = filters_.data + half_ * filters_.half_stride + channel_ + row * filters_.row_stride;
    DELTACONV_UNROLL
    for (int k = 0; k < kTaps; ++k) {
      taps_[k] = exists && k < K_ ? load_constant(&from[k * filters_.col_stride].bits) : uint16_t{0};
    }
  }

  DELTACONV_DEVICE void store(int row, uint32_t* shared) const {
    uint32_t* to = shared + (2 * banded_slot(channel_) + half_) * Banded::filter_words(K_) + row * (K_ + 1);
    DELTACONV_UNROLL
    for (int k = 0; k <= kTaps; ++k) {
      const uint32_t left = k > 0 ? taps_[k - 1] : 0, right = k < kTaps ? taps_[k] : 0;
      if (k <= K_ && row < K_) to[k] = left | right << 16;
    }
  }

 private:
  static constexpr int kTaps = 8 * Banded::kBand - 7;  // the largest K of this band
  const Source<T>& filters_;
  int K_, channel_, half_;
  uint16_t taps_[kTaps];
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

}  // namespace deltaconv::cuda::tensor_cores

// Rows of vectors: where they lie in scratch memory, and how they are read from an image, resampled and written.
#pragma once

#include "cpu/lanes.h"

namespace deltaconv::cpu::DELTACONV_ISA {

DELTACONV_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
DELTACONV_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

DELTACONV_INLINE int64_t length(Span range) { return range.end - range.begin; }
DELTACONV_INLINE Span clip(Span range, int64_t size) { return {larger(range.begin, 0), smaller(range.end, size)}; }
DELTACONV_INLINE Span hull(Span a, Span b) { return {smaller(a.begin, b.begin), larger(a.end, b.end)}; }

// The inputs that outputs [range.begin, range.end) are made of. Windows ascend with their outputs.
template <class A>
DELTACONV_INLINE Span inputs_of(const Resample<A>& resample, Span range) {
  const Window last = resample.windows[range.end - 1];
  return {resample.windows[range.begin].start, int64_t{last.start} + last.count};
}

// Hands out 64-byte aligned pieces of a task's scratch memory. From address 0 it only measures.
struct Arena {
  uintptr_t cursor;

  template <class P>
  DELTACONV_INLINE P* take(int64_t count) {
    P* piece = reinterpret_cast<P*>(cursor);
    cursor += (static_cast<uintptr_t>(count) * sizeof(P) + 63) & ~uintptr_t{63};
    return piece;
  }
};

// The channels of a task as vectors: `vectors` vectors of u from channel `first` on, then as many of v from channel
// `first + half` on. A vector of either half is called a plane.
template <class A>
struct ChannelBlock {
  int64_t first, half, vectors;

  DELTACONV_INLINE int64_t planes() const { return 2 * vectors; }
  DELTACONV_INLINE int lanes(int64_t plane) const {
    return int(smaller(kLanes<A>, half - first - plane % vectors * kLanes<A>));
  }
  // A vector's channel: its offset within the C channels of x, or within the C / 2 channels of a stage's slice
  // of the result.
  DELTACONV_INLINE int64_t channel(int64_t plane) const { return plane / vectors * half + slice_channel(plane); }
  DELTACONV_INLINE int64_t slice_channel(int64_t plane) const { return first + plane % vectors * kLanes<A>; }
};

template <class A>
DELTACONV_INLINE ChannelBlock<A> channel_block_of(const Sizes& sizes, int64_t index) {
  const int64_t half = sizes.C / 2, first = index * kChannelBlock;
  return {first, half, (smaller(kChannelBlock, half - first) + kLanes<A> - 1) / kLanes<A>};
}

// The latest `depth` rows of a sequence of rows; each row is [planes][width] vectors.
template <class A>
struct Ring {
  A* data;
  int64_t depth, planes, width;

  DELTACONV_INLINE A* at(int64_t row, int64_t plane) const {
    return data + (row % depth * planes + plane) * width * kLanes<A>;
  }
};

template <class A>
DELTACONV_INLINE Ring<A> take_ring(Arena& arena, int64_t depth, int64_t planes, int64_t width) {
  return {arena.take<A>(depth * planes * width * kLanes<A>), depth, planes, width};
}

// Vectors at [row, col] of an image, or of one plane of a ring whose first column is col_begin.
template <class T, bool Full>
struct ImageSource {
  const T* data;
  int64_t row_stride, col_stride;
  int lanes;
  int64_t ahead;  // elements from a vector to the one that will be read a row later

  DELTACONV_INLINE const T* row(int64_t r) const { return data + r * row_stride; }
  DELTACONV_INLINE auto at(const T* row, int64_t col) const {
    // Neighbouring columns are C channels apart, too far for a hardware prefetcher.
    prefetch(row + col * col_stride + ahead);
    return load<Full>(row + col * col_stride, lanes);
  }
};

template <class A>
struct RingSource {
  Ring<A> ring;
  int64_t plane, col_begin;

  DELTACONV_INLINE const A* row(int64_t r) const { return ring.at(r, plane); }
  DELTACONV_INLINE auto at(const A* row, int64_t col) const { return load(row + (col - col_begin) * kLanes<A>); }
};

// Calls visit(source) for one vector of an image's channels.
template <class T, class Visit>
DELTACONV_INLINE void with_source(const Image<const T>& image, int64_t b, int64_t channel, int lanes,
                                  int64_t rows_ahead, const Visit& visit) {
  with_lanes<Accumulator<T>>(lanes, [&]<bool Full>() {
    visit(ImageSource<T, Full>{image.data + b * image.batch_stride + channel, image.row_stride, image.col_stride, lanes,
                               rows_ahead * image.row_stride});
  });
}

template <class Source, class Put>
DELTACONV_INLINE void copy_row(const Source& source, int64_t row, Span cols, const Put& put) {
  const auto* from = source.row(row);
  for (int64_t x = cols.begin; x < cols.end; ++x) put(x, source.at(from, x));
}

// out = the weighted sum of N rows of the source.
template <int N, class A, class Source>
DELTACONV_INLINE void combine_rows(const Source& source, int64_t row, const A* weights, Span cols, A* out) {
  Vector<A> weight[N];
  decltype(source.row(row)) line[N];
  for (int n = 0; n < N; ++n) {
    weight[n] = broadcast(weights[n]);
    line[n] = source.row(row + n);
  }
  for (int64_t x = cols.begin; x < cols.end; ++x, out += kLanes<A>) {
    Vector<A> sum = weight[0] * source.at(line[0], x);
    for (int n = 1; n < N; ++n) sum += weight[n] * source.at(line[n], x);
    store(out, sum);
  }
}

template <class A, class Source>
DELTACONV_INLINE void combine_rows(const Source& source, Window window, const A* weights, Span cols, A* out) {
  switch (window.count) {
    case 1: return combine_rows<1>(source, window.start, weights, cols, out);
    case 2: return combine_rows<2>(source, window.start, weights, cols, out);
    case 3: return combine_rows<3>(source, window.start, weights, cols, out);
  }
  combine_rows<4>(source, window.start, weights, cols, out);
  for (int64_t k = 4; k < window.count; ++k) {
    const auto* line = source.row(window.start + k);
    const Vector<A> weight = broadcast(weights[k]);
    A* to = out;
    for (int64_t x = cols.begin; x < cols.end; ++x, to += kLanes<A>) {
      store(to, load(to) + weight * source.at(line, x));
    }
  }
}

// Calls put(x, value) for the columns `cols` of row `row` of the resampled source. `combined` holds one row of
// the source's columns.
template <class A, class Source, class Put>
DELTACONV_INLINE void resample_row(const Source& source, const Resample<A>& row_map, const Resample<A>& col_map,
                                   int64_t row, Span cols, A* combined, const Put& put) {
  constexpr int V = kLanes<A>;
  const Span from = inputs_of(col_map, cols);
  combine_rows(source, row_map.windows[row], row_map.weights + row * row_map.pitch, from, combined);
  const A* weights = col_map.weights + cols.begin * col_map.pitch;
  for (int64_t x = cols.begin; x < cols.end; ++x, weights += col_map.pitch) {
    const Window window = col_map.windows[x];
    const A* in = combined + (window.start - from.begin) * V;
    Vector<A> sum = broadcast(weights[0]) * load(in);
    if (window.count > 1) sum += broadcast(weights[1]) * load(in + V);
    for (int64_t k = 2; k < window.count; ++k) sum += broadcast(weights[k]) * load(in + k * V);
    put(x, sum);
  }
}

// Resampling by a factor that divides the image. All windows are alike, so that no table is needed along the columns.

// The mean of the pooling window of column x and row `row`, by `factor`.
template <class A, class Source>
DELTACONV_INLINE Vector<A> average_window(const Source& source, int64_t factor, int64_t row, int64_t x) {
  if (factor == 2) {
    const auto *upper = source.row(2 * row), *lower = source.row(2 * row + 1);
    const Vector<A> left = source.at(upper, 2 * x) + source.at(lower, 2 * x);
    const Vector<A> right = source.at(upper, 2 * x + 1) + source.at(lower, 2 * x + 1);
    return (left + right) * A(0.25);
  }
  Vector<A> sum{};
  for (int64_t i = 0; i < factor; ++i) {
    const auto* line = source.row(row * factor + i);
    for (int64_t j = 0; j < factor; ++j) sum += source.at(line, x * factor + j);
  }
  return sum * (A(1) / static_cast<A>(factor * factor));
}

// The adjoint of average pooling by `factor`: put(x, value) for columns `cols` of row `row`.
template <class A, class Source, class Put>
DELTACONV_INLINE void spread_windows(const Source& source, int64_t factor, int64_t row, Span cols, const Put& put) {
  const Vector<A> weight = broadcast(A(1) / static_cast<A>(factor * factor));
  const auto* line = source.row(row / factor);
  for (int64_t x = cols.begin; x < cols.end;) {
    const Vector<A> value = weight * source.at(line, x / factor);
    for (const int64_t end = smaller((x / factor + 1) * factor, cols.end); x < end; ++x) put(x, value);
  }
}

// Bilinear upsampling by 2 of the columns `from` to `cols`. column(x) gives a source column; beyond the ends of the
// image the last column counts again.
template <class A, class Column, class Put>
DELTACONV_INLINE void upsample_twice(const Column& column, Span from, Span cols, const Put& put) {
  const A near = A(0.75), far = A(0.25);
  const auto clamped = [&](int64_t x) { return column(smaller(larger(x, from.begin), from.end - 1)); };
  int64_t x = cols.begin / 2;
  Vector<A> before = clamped(x - 1), here = clamped(x);
  for (; 2 * x < cols.end; ++x) {
    const Vector<A> after = clamped(x + 1);
    if (2 * x >= cols.begin) put(2 * x, far * before + near * here);
    if (2 * x + 1 < cols.end) put(2 * x + 1, near * here + far * after);
    before = here;
    here = after;
  }
}

// The adjoint of upsampling by 2: columns `cols` from an image of W columns.
template <class A, class Column, class Put>
DELTACONV_INLINE void upsample_twice_adjoint(const Column& column, int64_t W, Span cols, const Put& put) {
  const A near = A(0.75), far = A(0.25);
  Vector<A> before = column(larger(2 * cols.begin - 1, 0)), left = column(2 * cols.begin);
  for (int64_t x = cols.begin; x < cols.end; ++x) {
    const Vector<A> right = column(2 * x + 1), after = column(smaller(2 * x + 2, W - 1));
    put(x, far * (before + after) + near * (left + right));
    before = right;
    left = after;
  }
}

// Calls visit(column) where column(x) is the sum of `window` rows of the source, weighted.
template <class A, class Source, class Visit>
DELTACONV_INLINE void with_combined_rows(const Source& source, Window window, const A* weights, const Visit& visit) {
  const auto rows = [&]<int N>() {
    decltype(source.row(0)) line[N];
    Vector<A> weight[N];
    for (int n = 0; n < N; ++n) {
      line[n] = source.row(window.start + n);
      weight[n] = broadcast(weights[n]);
    }
    visit([=](int64_t x) {
      Vector<A> sum = weight[0] * source.at(line[0], x);
      for (int n = 1; n < N; ++n) sum += weight[n] * source.at(line[n], x);
      return sum;
    });
  };
  switch (window.count) {  // upsampling by 2 has 1 or 2, its adjoint 2, 3 or 4
    case 1: return rows.template operator()<1>();
    case 2: return rows.template operator()<2>();
    case 3: return rows.template operator()<3>();
    default: return rows.template operator()<4>();
  }
}

template <class A>
DELTACONV_INLINE void zero_vectors(A* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) store(out + i * kLanes<A>, Vector<A>{});
}

}  // namespace deltaconv::cpu::DELTACONV_ISA

// A task's share of a stage's weight and bias gradients: sums over rows, in the form of tiles.h.
#pragma once

#include "cpu/transformed.h"

namespace deltaconv::cpu::DELTACONV_ISA {

// The part [parts.begin, parts.end) of an axis that is cut into `count` equal parts.
DELTACONV_INLINE Span share(Span parts, int64_t count, int64_t size) {
  return {parts.begin * size / count, parts.end * size / count};
}

// The weight gradient of one stage and channel block. Sums start from zero with each strip of the image and are written
// at its end, so that they do not depend on how strips are grouped into tasks.
template <class T>
struct WeightGradient {
  using A = Accumulator<T>;
  static constexpr int V = kLanes<A>;

  const BackwardArguments<T>* arguments;
  const BackwardTask* task;
  int64_t stage, height;
  ChannelBlock<A> block;
  Span rows, cols;  // this task's part of the stage's grid
  Tiling tiling;
  A* slopes;  // a row of slopes as accumulate() takes it
  A* sums;    // [planes][points][K][chunks] vectors
  A* bias;    // [planes] vectors

  DELTACONV_INLINE int64_t K() const { return arguments->problem.sizes.K; }
  DELTACONV_INLINE int64_t filter_size() const { return tiling.scheme.points * K() * tiling.scheme.chunks; }
  DELTACONV_INLINE bool owns(int64_t r) const { return arguments->partials && r >= rows.begin && r < rows.end; }
  // The strip that owns row r, and the rows of that strip.
  DELTACONV_INLINE int64_t strip_of(int64_t r) const { return ((r + 1) * arguments->partition.strips - 1) / height; }
  DELTACONV_INLINE Span strip_rows(int64_t r) const {
    const int64_t strip = strip_of(r);
    return share({strip, strip + 1}, arguments->partition.strips, height);
  }

  DELTACONV_INLINE void plan(const BackwardArguments<T>& all, const BackwardTask& part, int64_t index) {
    const Sizes& sizes = all.problem.sizes;
    arguments = &all;
    task = &part;
    stage = index;
    height = all.problem.stages[index].h;
    block = channel_block_of<A>(sizes, part.channel_block);
    rows = share(part.strips, all.partition.strips, height);
    cols = share({part.panel, part.panel + 1}, all.partition.panels, all.problem.stages[index].w);
  }

  DELTACONV_INLINE void plan_memory(Arena& arena, const Tiling& input_tiling) {
    tiling = input_tiling;
    slopes = arena.take<A>(tiling.scheme.points * tiling.tiles * V);
    sums = arena.take<A>(block.planes() * filter_size() * V);
    bias = arena.take<A>(block.planes() * V);
  }

  // Adds the products of a row of slopes and the inputs around it. The row is [tiling.tiles * scheme.tile] vectors with
  // zeros outside of `cols`.
  DELTACONV_NOINLINE void add_row(int64_t r, int64_t plane, const A* row, const Rows<A>& around) const {
    A *plane_sums = sums + plane * filter_size() * V, *bias_sum = bias + plane * V;
    if (r == strip_rows(r).begin) {
      zero_vectors(plane_sums, filter_size());
      zero_vectors(bias_sum, 1);
    }
    with_tile(tiling.scheme.tile, [&]<int M>() { transform_filters<M>(row, tiling.tiles, tiling.tiles, slopes); });
    accumulate<A>(tiling.scheme, K(), around, tiling.tiles, slopes, plane_sums);
    Vector<A> sum = load(bias_sum);
    for (int64_t x = 0; x < tiling.tiles * tiling.scheme.tile; ++x) sum += load(row + x * V);
    store(bias_sum, sum);
  }

  // If row r is the last of its strip, writes the sums or adds them to those of the group's earlier strips.
  DELTACONV_INLINE void write_at_end_of_strip(int64_t r) const {
    if (r != strip_rows(r).end - 1) return;
    const Sizes& sizes = arguments->problem.sizes;
    const Partition& partition = arguments->partition;
    const int64_t strip = strip_of(r), group = ((strip + 1) * partition.groups - 1) / partition.strips;
    const bool first = strip == group * partition.strips / partition.groups;
    const int64_t partial = (task->image * partition.groups + group) * partition.panels + task->panel;
    A* stage_sums = arguments->partials + (partial * sizes.S + stage) * (K() * K() + 1) * sizes.C;
    for (int64_t plane = 0; plane < block.planes(); ++plane) write_plane(plane, first, stage_sums);
  }

  DELTACONV_INLINE void write_plane(int64_t plane, bool first, A* stage_sums) const {
    const int64_t C = arguments->problem.sizes.C, chunks = tiling.scheme.chunks;
    const int lanes = block.lanes(plane);
    const A* from = sums + plane * filter_size() * V;
    A* to = stage_sums + block.channel(plane);
    A taps[kMaxPaddedK * V];
    for (int64_t i = 0; i < K(); ++i) {
      with_tile(tiling.scheme.tile,
                [&]<int M>() { transform_outputs<M>(from + i * chunks * V, chunks, K() * chunks, Vector<A>{}, taps); });
      with_lanes<A>(lanes, [&]<bool Full>() {
        for (int64_t j = 0; j < K(); ++j, to += C) put<Full>(load(taps + j * V), first, to, lanes);
      });
    }
    put<false>(load(bias + plane * V), first, to, lanes);
  }

  template <bool Full>
  static DELTACONV_INLINE void put(Vector<A> value, bool first, A* to, int lanes) {
    store<Full>(to, first ? value : value + load<Full>(to, lanes), lanes);
  }
};

}  // namespace deltaconv::cpu::DELTACONV_ISA

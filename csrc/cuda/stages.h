// How the stages of the pyramid are cut into the tiles of thread blocks.
#pragma once

#include "cuda/geometry.h"
#include "pyramid.h"

namespace deltaconv::cuda {

// Tiles of rows x cols reduced pixels, the next one step_rows or step_cols further. Tiles whose results are
// upsampled share their last row and column with the next tile, so that each holds both ends of the cells it
// owns.
struct Tiling {
  int32_t rows, cols, step_rows, step_cols, count_rows, count_cols;
  int32_t band_rows;  // input rows that shared memory holds at a time
  DELTACONV_ANYWHERE int64_t count() const { return static_cast<int64_t>(count_rows) * count_cols; }
};

// One stage's grid.
struct Stage {
  int32_t index;  // in factors: which filters, which slice of the result
  Axis rows, cols;
  Tiling tiling;
};

// Kernel parameters are limited to 4 KB; more stages take more launches.
inline constexpr int kMaxStages = 16;

struct Stages {
  int32_t count;
  Stage at[kMaxStages];
};

inline Tiling tile_stage(const Axis& rows, const Axis& cols, int32_t tile_rows, int32_t tile_cols,
                         bool share_borders) {
  const auto count = [](int32_t size, int32_t tile, int32_t step) {
    return size <= tile ? 1 : 1 + (size - tile + step - 1) / step;
  };
  const int32_t shared = share_borders ? 1 : 0, step_rows = tile_rows - shared,
                step_cols = tile_cols - shared;
  const int32_t count_rows = count(rows.reduced, tile_rows, step_rows);
  const int32_t count_cols = count(cols.reduced, tile_cols, step_cols);
  return {tile_rows, tile_cols, step_rows, step_cols, count_rows, count_cols, 0};
}

// The i-th of `parts` nearly equal parts of [0, count), and the size of the largest.
struct Span {
  int32_t begin, end;
};
DELTACONV_ANYWHERE Span share(int32_t count, int32_t i, int32_t parts) {
  const int64_t n = count;
  return {static_cast<int32_t>(n * i / parts), static_cast<int32_t>(n * (i + 1) / parts)};
}
DELTACONV_ANYWHERE int32_t most_of_share(int32_t count, int32_t parts) { return (count + parts - 1) / parts; }

// The order of a launch's blocks. The image is cut into cells, as many as the coarsest stage has tiles; cell
// after cell, the blocks of all stages, so that the second stage finds in the L2 what the first one read.
// Neighbouring blocks differ in their channels: they share lines of device memory. A stage's blocks in a cell
// are counted as in its largest cell; elsewhere a few have nothing to do.
struct BlockOrder {
  int64_t channel_blocks, blocks_of_cell;
  int32_t cell_rows, cell_cols;
  int64_t images;

  DELTACONV_ANYWHERE BlockOrder(const Stages& stages, const Sizes& sizes, int32_t pairs)
      : channel_blocks((sizes.C / 2 + pairs - 1) / pairs),
        blocks_of_cell(0),
        cell_rows(stages.at[0].tiling.count_rows),
        cell_cols(stages.at[0].tiling.count_cols),
        images(sizes.B) {
    for (int32_t s = 1; s < stages.count; ++s) {
      const Tiling& tiling = stages.at[s].tiling;
      if (tiling.count_rows < cell_rows) cell_rows = tiling.count_rows;
      if (tiling.count_cols < cell_cols) cell_cols = tiling.count_cols;
    }
    for (int32_t s = 0; s < stages.count; ++s) blocks_of_cell += blocks_of_stage(stages.at[s].tiling);
  }

  DELTACONV_ANYWHERE int64_t cells() const { return static_cast<int64_t>(cell_rows) * cell_cols; }
  DELTACONV_ANYWHERE int64_t blocks_of_stage(const Tiling& tiling) const {
    return channel_blocks * most_of_share(tiling.count_rows, cell_rows) *
           most_of_share(tiling.count_cols, cell_cols);
  }
  DELTACONV_ANYWHERE int64_t blocks() const { return images * cells() * blocks_of_cell; }
};

}  // namespace deltaconv::cuda

// How the stages of the pyramid are cut into the tiles of thread blocks.
#pragma once

#include "cuda/layout/division.h"
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

// The i-th of `parts` nearly equal parts of [0, count), and the size of the largest.
struct Span {
  int32_t begin, end;
};
DELTACONV_ANYWHERE Span share(int32_t count, int32_t i, int32_t parts) {
  const int64_t n = count;
  return {static_cast<int32_t>(n * i / parts), static_cast<int32_t>(n * (i + 1) / parts)};
}

// The order of a launch's blocks. The image is cut into cells, as many as the coarsest stage has tiles; cell
// after cell, the blocks of all stages, so that the second stage finds in the L2 what the first one read.
// Neighbouring blocks differ in their channels: they share lines of device memory. A stage's blocks in a cell
// are counted as in its largest cell; elsewhere a few have nothing to do. All of it is computed with the
// plan, since a block starts by looking itself up.
struct BlockOrder {
  // A stage's tiles along an axis, in nearly equal parts, one for each row or column of cells.
  struct Parts {
    int32_t each, rest;
    DELTACONV_ANYWHERE int32_t begin(int32_t i, const Divisor& parts) const {
      return each * i + static_cast<int32_t>(parts.quotient(static_cast<uint32_t>(rest * i)));
    }
    DELTACONV_ANYWHERE Span part(int32_t i, const Divisor& parts) const {
      return {begin(i, parts), begin(i + 1, parts)};
    }
    DELTACONV_ANYWHERE int32_t most() const { return each + (rest > 0); }
  };
  struct OfStage {
    Parts rows, cols;
    uint32_t blocks;  // in a cell
    Divisor across;   // tiles in a row of the largest cell
  };
  static constexpr int32_t kMostCells = 32767;  // along an axis, so that rest * i has 31 bits

  int32_t pairs = 0;  // of channels that a block takes
  Divisor channel_blocks, blocks_of_cell, blocks_of_image, cell_rows, cell_cols;
  OfStage of[kMaxStages] = {};
};

struct Stages {
  int32_t count;
  Stage at[kMaxStages];
  BlockOrder order = {};
};

inline Tiling tile_stage(const Axis& rows, const Axis& cols, int32_t tile_rows, int32_t tile_cols, bool share_borders) {
  const auto count = [](int32_t size, int32_t tile, int32_t step) {
    return size <= tile ? 1 : 1 + (size - tile + step - 1) / step;
  };
  const int32_t shared = share_borders ? 1 : 0, step_rows = tile_rows - shared, step_cols = tile_cols - shared;
  const int32_t count_rows = count(rows.reduced, tile_rows, step_rows);
  const int32_t count_cols = count(cols.reduced, tile_cols, step_cols);
  return {tile_rows, tile_cols, step_rows, step_cols, count_rows, count_cols, 0};
}

}  // namespace deltaconv::cuda

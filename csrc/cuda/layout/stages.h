// How the stages of the pyramid are cut into tiles, one for each CTA and channel block.
#pragma once

#include "cuda/layout/division.h"
#include "pyramid.h"

namespace deltaconv::cuda {

// Tiles of rows x cols reduced pixels; the next tile begins step_rows or step_cols further. Tiles whose results are
// upsampled share their last row and column with the next tile, so that each tile holds both ends of the cells it owns.
//
//   9 reduced rows in tiles of 4, not upsampled: step 4     0-3  4-7  8-8
//   9 reduced rows in tiles of 4, upsampled: step 3         0-3  3-6  6-8
struct Tiling {
  int32_t rows, cols, step_rows, step_cols, count_rows, count_cols;
  int32_t band_rows;  // input rows that shared memory holds at a time; 0 on tensor cores
  DELTACONV_ANYWHERE int64_t count() const { return static_cast<int64_t>(count_rows) * count_cols; }
};

// The grid of one stage.
struct Stage {
  int32_t index;  // position in factors; selects the filters and the slice of the result
  Axis rows, cols;
  Tiling tiling;
};

// Stages of one launch. Kernel parameters are limited to 4 KB; more stages take more launches.
inline constexpr int kMaxStages = 16;

struct Span {
  int32_t begin, end;
};

// The i-th of `parts` nearly equal parts of [0, count).
DELTACONV_ANYWHERE Span share(int32_t count, int32_t i, int32_t parts) {
  const int64_t n = count;
  return {static_cast<int32_t>(n * i / parts), static_cast<int32_t>(n * (i + 1) / parts)};
}

// The order of a launch's CTAs. The image is cut into cells, as many as the coarsest stage has tiles. The CTAs go
// through the image cell by cell and take all stages of a cell before the next cell, so that the second stage
// finds in the L2 cache what the first one read. Neighbouring CTAs differ in their channels, because those share
// lines of device memory.
//
// Every cell counts as many CTAs for a stage as the stage's largest cell needs; in smaller cells a few CTAs
// have nothing to do. The plan computes all of this in advance, since the first thing that a CTA does is to
// look up its tile.
//
//   5 tiles of stage 0 and 2 of stage 1 in a row of the image, one channel block: 2 cells of 3 + 1 CTAs
//   CTA       0  1  2  3  |  4  5  6  7
//   stage     0  0  0  1  |  0  0  0  1
//   tile      0  1  -  0  |  2  3  4  1     the first cell has 2 tiles of stage 0: CTA 2 has nothing to do
struct CtaOrder {
  // A stage's tiles along one axis in nearly equal parts, one part for each row or column of cells.
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
  struct StageOrder {
    Parts rows, cols;
    uint32_t ctas;   // in a cell
    Divisor across;  // tiles in a row of the largest cell
  };
  static constexpr int32_t kMostCells = 32767;  // along an axis, so that rest * i has 31 bits

  int32_t pairs = 0;  // channel pairs of a CTA
  Divisor channel_blocks, ctas_of_cell, ctas_of_image, cell_rows, cell_cols;
  StageOrder stages[kMaxStages] = {};
};

struct Stages {
  int32_t count;
  Stage at[kMaxStages];
  CtaOrder order = {};
};

// Tiles that share borders begin at multiples of `aligned` columns, and share more columns for that.
inline Tiling tile_stage(const Axis& rows, const Axis& cols, int32_t tile_rows, int32_t tile_cols, bool share_borders,
                         int32_t aligned = 1) {
  const auto count = [](int32_t size, int32_t tile, int32_t step) {
    return size <= tile ? 1 : 1 + (size - tile + step - 1) / step;
  };
  const int32_t shared = share_borders ? 1 : 0, step_rows = tile_rows - shared;
  const int32_t step_cols = (tile_cols - shared) / aligned * aligned;
  const int32_t count_rows = count(rows.reduced, tile_rows, step_rows);
  const int32_t count_cols = count(cols.reduced, tile_cols, step_cols);
  return {tile_rows, tile_cols, step_rows, step_cols, count_rows, count_cols, 0};
}

}  // namespace deltaconv::cuda

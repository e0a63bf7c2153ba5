// From a block's index to its part of the problem: stage, image, tile, channel pairs.
#pragma once

#include "cuda/device/device.h"
#include "cuda/problem.h"

namespace deltaconv::cuda {

struct Tile {
  bool exists;    // or the block has nothing to do
  int32_t stage;  // in Stages::at
  int32_t image;
  int32_t index_row, index_col;  // among the stage's tiles
  int32_t row, col;              // of its first reduced pixel
  int32_t channel;               // first of the block's pairs
};

// See BlockOrder for the order of blocks.
DELTACONV_DEVICE Tile locate_tile(const Stages& stages, const Sizes& sizes, int32_t pairs) {
  const BlockOrder order(stages, sizes, pairs);
  // A grid has fewer than 2^31 blocks, so that 32 bits are enough for every count here.
  const auto channel_blocks = static_cast<uint32_t>(order.channel_blocks);
  const auto blocks_of_cell = static_cast<uint32_t>(order.blocks_of_cell);
  const auto cells = static_cast<uint32_t>(order.cells());
  auto rest = static_cast<uint32_t>(block_index());
  Tile tile{};
  tile.image = static_cast<int32_t>(rest / (cells * blocks_of_cell));
  const auto cell = static_cast<int32_t>(rest / blocks_of_cell % cells);
  rest %= blocks_of_cell;
  for (; tile.stage + 1 < stages.count; ++tile.stage) {
    const auto blocks = static_cast<uint32_t>(order.blocks_of_stage(stages.at[tile.stage].tiling));
    if (rest < blocks) break;
    rest -= blocks;
  }
  const Tiling& tiling = stages.at[tile.stage].tiling;
  tile.channel = static_cast<int32_t>(rest % channel_blocks) * pairs;
  rest /= channel_blocks;
  const Span rows = share(tiling.count_rows, cell / order.cell_cols, order.cell_rows);
  const Span cols = share(tiling.count_cols, cell % order.cell_cols, order.cell_cols);
  const int32_t cols_at_most = most_of_share(tiling.count_cols, order.cell_cols);
  tile.index_row = rows.begin + static_cast<int32_t>(rest) / cols_at_most;
  tile.index_col = cols.begin + static_cast<int32_t>(rest) % cols_at_most;
  tile.exists = tile.index_row < rows.end && tile.index_col < cols.end;
  tile.row = tile.index_row * tiling.step_rows;
  tile.col = tile.index_col * tiling.step_cols;
  return tile;
}

}  // namespace deltaconv::cuda

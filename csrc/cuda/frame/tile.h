// Where a CTA's part of the problem lies: stage, image, tile, channel pairs.
#pragma once

#include "cuda/device/device.h"
#include "cuda/layout/problem.h"

namespace deltaconv::cuda {

struct Tile {
  bool exists;    // else the CTA has nothing to do
  int32_t stage;  // position in Stages::at
  int32_t image;
  int32_t index_row, index_col;  // position among the stage's tiles
  int32_t row, col;              // first reduced pixel
  int32_t channel;               // first channel of the CTA's pairs
};

// Finds the tile of this CTA; CtaOrder explains their order. A grid has fewer than 2^31 CTAs, so 32 bits are enough.
DELTACONV_DEVICE Tile locate_tile(const Stages& stages) {
  const CtaOrder& order = stages.order;
  auto rest = static_cast<uint32_t>(block_index());
  Tile tile{};
  tile.image = static_cast<int32_t>(order.ctas_of_image.divide(rest));
  uint32_t cell_col = order.ctas_of_cell.divide(rest);
  const auto cell_row = static_cast<int32_t>(order.cell_cols.divide(cell_col));
  for (; tile.stage + 1 < stages.count && rest >= order.stages[tile.stage].ctas; ++tile.stage) {
    rest -= order.stages[tile.stage].ctas;
  }
  uint32_t across = order.channel_blocks.divide(rest);
  tile.channel = static_cast<int32_t>(rest) * order.pairs;
  const CtaOrder::StageOrder& stage = order.stages[tile.stage];
  const auto down = static_cast<int32_t>(stage.across.divide(across));
  const Span rows = stage.rows.part(cell_row, order.cell_rows);
  const Span cols = stage.cols.part(static_cast<int32_t>(cell_col), order.cell_cols);
  tile.index_row = rows.begin + down;
  tile.index_col = cols.begin + static_cast<int32_t>(across);
  tile.exists = tile.index_row < rows.end && tile.index_col < cols.end;
  const Tiling& tiling = stages.at[tile.stage].tiling;
  tile.row = tile.index_row * tiling.step_rows;
  tile.col = tile.index_col * tiling.step_cols;
  return tile;
}

}  // namespace deltaconv::cuda

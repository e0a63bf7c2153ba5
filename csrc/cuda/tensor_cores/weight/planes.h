// Where the weight gradient's kernel finds a tile, and the tile's way to shared memory.
#pragma once

#include <type_traits>

#include "cuda/device/device.h"
#include "cuda/layout/backward_workspace.h"
#include "cuda/layout/problem.h"
#include "cuda/layout/weight_band.h"

namespace deltaconv::cuda::tensor_cores {

// One channel of a stage's workspace in all images, and how it is cut into half tiles. This note waits in shared
// memory, because a warp's registers are for its sums.
template <class T>
struct ChannelPlanes {
  GradientGrid grid;
  const T *inputs, *grads;  // those of image 0
  const float* scales;      // those of image 0
  int64_t image_elements, image_cells;
  int32_t images, halves_of_image, tiles_across;

  DELTACONV_DEVICE ChannelPlanes(const BackwardArguments<T>& arguments, const Stage& stage, int64_t channel)
      : grid(stage.rows, stage.cols, arguments.problem.sizes),
        image_elements(grid.plane(1, 0)),
        image_cells(grid.scales(1, 0)),
        images(static_cast<int32_t>(arguments.problem.sizes.B)),
        halves_of_image((grid.rows + kHalfRows - 1) / kHalfRows),
        tiles_across(stage.tiling.count_cols) {
    const auto planes = [&](const int64_t* offsets) {
      return reinterpret_cast<const T*>(arguments.workspace + offsets[stage.index]) + grid.plane(0, channel);
    };
    inputs = planes(arguments.inputs);
    grads = planes(arguments.grad_a);
    scales = arguments.workspace + arguments.scales[stage.index] + grid.scales(0, channel);
  }
};

static_assert(sizeof(ChannelPlanes<Half>) == kChannelPlanesBytes);

// Where the halves of a tile lie.
struct WeightTileAt {
  int32_t image[2], row[2], col;
  bool exists;  // whether there is a second half
  bool joined;  // whether the halves are neighbours, with one window of inputs

  template <class T>
  DELTACONV_DEVICE WeightTileAt(const ChannelPlanes<T>& planes, int32_t index, int32_t tile_cols) {
    const int32_t first = index / planes.tiles_across * 2;
    col = index % planes.tiles_across * tile_cols;
    DELTACONV_UNROLL
    for (int i = 0; i < 2; ++i) {
      image[i] = (first + i) / planes.halves_of_image;
      row[i] = (first + i) % planes.halves_of_image * kHalfRows;
    }
    exists = image[1] < planes.images;
    joined = !exists || image[0] == image[1];
  }
};

// Copies rows [begin, end) of a tile to shared memory, kChunks pieces of 16 bytes of each row. The first is row `top`
// of a plane; where the plane has none, rows are zeros.
template <int kChunks, class T>
DELTACONV_DEVICE void copy_rows(const GradientGrid& grid, const T* plane, int32_t top, int32_t first_chunk,
                                int32_t begin, int32_t end, int pitch, int rows_of_parity, T* to) {
  constexpr int kLanesOfRow = kChunks <= 4 ? 4 : 8;
  static_assert(kChunks <= 8);
  const int lane = fresh_lane_index();
  const int32_t chunk = lane % kLanesOfRow, at = first_chunk + chunk;
  if (chunk >= kChunks) return;
  // A lane's rows lie an even number of rows apart, so that all of them are of one parity.
  constexpr int kRowsApart = kWarp / kLanesOfRow;
  static_assert(kRowsApart % 2 == 0);
  const int32_t down = lane / kLanesOfRow, first = begin + down;
  const uint32_t rows = 0 <= at && at < grid.pitch / 8 ? grid.rows : 0;
  uint32_t row = top + down;  // wraps around where it is negative
  const int64_t step = int64_t{kRowsApart} * grid.pitch;
  const T* from = plane + static_cast<int32_t>(row) * int64_t{grid.pitch} + 8 * at;
  to += (first % 2 * rows_of_parity + first / 2) * pitch + 8 * chunk;
  DELTACONV_NO_UNROLL
  for (int32_t left = end - first; left > 0; left -= kRowsApart) {
    copy16_async(to, from, row < rows);  // which reads nothing where it fills in zeros
    row += kRowsApart;
    from += step;
    to += kRowsApart / 2 * pitch;
  }
}

// Starts the copies of a tile into a buffer.
template <class Band, class T>
DELTACONV_DEVICE void copy_tile(const ChannelPlanes<T>& planes, const WeightTileAt& at, int K, int input_rows,
                                T* buffer) {
  const GradientGrid& grid = planes.grid;
  const int32_t chunk =
      (at.col + grid.lead - K / 2) / 8;  // chunk of the first input, which is a multiple of 8 elements
  T* grads = buffer + input_rows * Band::kPitch;
  DELTACONV_UNROLL
  for (int i = 0; i < 2; ++i) {
    if (i == 1 && at.joined) continue;
    const int64_t image = at.image[i] * planes.image_elements;
    copy_rows<Band::kFragments + 1>(grid, planes.grads + image, at.row[i], at.col / 8, i * kHalfRows,
                                    at.joined ? 2 * kHalfRows : (i + 1) * kHalfRows, Band::kGradPitch, kHalfRows,
                                    grads);
    const int rows = at.joined ? joined_input_rows(K) : half_input_rows(K);
    copy_rows<Band::kLoads>(grid, planes.inputs + image, at.row[i] - K / 2, chunk, i * rows, (i + 1) * rows,
                            Band::kPitch, input_rows / 2, buffer);
  }
  commit_copies();
}

// The scales of a tile's cells. A cell is half a tile high and two fragments of 8 columns wide. A lane has the scale of
// cell lane % kCells, where cell 2 c + i is the c-th of half i. In place of a cell that does not exist it has the scale
// of one that does.
//
//   tile of 32 columns      columns 0 to 15   columns 16 to 31
//   upper half (i = 0)      cell 0            cell 2
//   lower half (i = 1)      cell 1            cell 3
template <class Band>
struct TileScales {
  static constexpr int kCells = Band::kFragments;
  float mine = 1.0f;

  TileScales() = default;
  DELTACONV_DEVICE TileScales(const ChannelPlanes<BFloat16>&, const WeightTileAt&) {}
  DELTACONV_DEVICE TileScales(const ChannelPlanes<Half>& planes, const WeightTileAt& tile) {
    const bool lower = fresh_lane_index() % 2 == 1 && tile.exists;
    const int across = fresh_lane_index() % kCells / 2;
    const int32_t row = (lower ? tile.row[1] : tile.row[0]) / kCell, col = tile.col / kCell;
    const int64_t image = (lower ? tile.image[1] : tile.image[0]) * planes.image_cells;
    const int further = col + across < planes.grid.cell_cols ? across : 0;
    mine = planes.scales[image + int64_t{row} * planes.grid.cell_cols + col + further];
  }

  DELTACONV_DEVICE float scale(int cell) const { return shuffle(mine, cell); }
  DELTACONV_DEVICE float largest() const { return warp_max<kCells>(mine); }
};

}  // namespace deltaconv::cuda::tensor_cores

// A tile of a matrix product on tensor cores: to = from . weight^T, with 16-bit operands and float32 sums.
//
// Both operands have dense channels, which the product sums over. The rows of the tile are those of one operand and its
// columns those of the other: pixels and output channels, or the other way round where results go to channel planes.
// Asynchronous copies bring kProductDepth channels at a time to shared memory, some steps ahead of
// their use. A row of one step is 128 bytes, all banks. Its 16-byte chunks lie in the order c ^ (row % 8), so that the
// 8 rows that ldmatrix reads at a time meet 8 different groups of 4 banks:
//
//   row 0    chunks 0 1 2 3 4 5 6 7
//   row 1    chunks 1 0 3 2 5 4 7 6
//   row 2    chunks 2 3 0 1 6 7 4 5
//   row 3    chunks 3 2 1 0 7 6 5 4
#pragma once

#include "cuda/device/mma.h"
#include "cuda/fused_block/arguments.h"

namespace deltaconv::cuda::fused_block {

// Where the 8 channels of a chunk are in shared memory, in elements.
DELTACONV_DEVICE int chunk_offset(int row, int chunk) { return row * kProductDepth + (chunk ^ row % 8) * 8; }

// Where a CTA is in a projection. Neighbouring CTAs share their pixels.
template <class Tile>
struct ProductPlace {
  int32_t image, row_tile, col_tile;

  template <class T>
  DELTACONV_DEVICE explicit ProductPlace(const Projection<T>& projection) {
    const auto cta = static_cast<uint32_t>(block_index());  // division of 64 bits takes a hundred instructions
    const uint32_t tile = cta / static_cast<uint32_t>(projection.col_tiles);
    col_tile = static_cast<int32_t>(cta % static_cast<uint32_t>(projection.col_tiles));
    image = static_cast<int32_t>(tile / static_cast<uint32_t>(projection.row_tiles));
    row_tile = static_cast<int32_t>(tile % static_cast<uint32_t>(projection.row_tiles));
  }

  DELTACONV_DEVICE int64_t row() const { return int64_t{row_tile} * Tile::kRows; }
  DELTACONV_DEVICE int32_t col() const { return col_tile * Tile::kCols; }
};

// A thread's part of one operand in global memory: a chunk of every kStride-th of the operand's rows. The first `count`
// rows from the thread's first on may exist; the others are zeros.
template <class T>
struct OperandRows {
  const T* first;  // the thread's chunk of its first row
  int64_t step;    // elements from one of the thread's rows to the next
  int32_t count;
};

// How a thread walks over an operand. A step walks from row to row with one pointer; a pointer for each row would take
// the registers of the sums.
template <class Tile>
struct OperandWalk {
  static constexpr int kChunks = kProductDepth / 8, kStride = Tile::kThreads / kChunks;
  static_assert(kStride % 8 == 0);  // so that all rows of a thread have their chunks in one order

  static DELTACONV_DEVICE int chunk() { return thread_index() % kChunks; }
  static DELTACONV_DEVICE int row() { return thread_index() / kChunks; }

  // Rows that lie one behind the other from `from` on, `count` of which exist and at most `most` are the tile's.
  template <class T>
  static DELTACONV_DEVICE OperandRows<T> consecutive(const T* from, int32_t depth, int64_t count, int32_t most) {
    return {from + int64_t{row()} * depth + 8 * chunk(), int64_t{kStride} * depth,
            static_cast<int32_t>(count < most ? count : most) - row()};
  }
};

// The copies of a thread's part of both operands.
template <class T, class Tile>
class ProductCopies {
 public:
  DELTACONV_DEVICE ProductCopies(const OperandRows<T>& rows, const OperandRows<T>& cols, int32_t depth)
      : rows_(rows), cols_(cols), channels_(depth - 8 * Walk::chunk()) {}

  // Starts the copies of the next kProductDepth channels: of the rows, then of the columns.
  DELTACONV_DEVICE void start(T* to) {
    T* mine = to + chunk_offset(Walk::row(), Walk::chunk());
    copy<Tile::kRows>(rows_, mine);
    copy<Tile::kCols>(cols_, mine + Tile::kRows * kProductDepth);
    rows_.first += kProductDepth;
    cols_.first += kProductDepth;
    channels_ -= kProductDepth;
  }

 private:
  using Walk = OperandWalk<Tile>;

  template <int kRows>
  DELTACONV_DEVICE void copy(const OperandRows<T>& rows, T* to) const {
    static_assert(kRows % Walk::kStride == 0);
    const T* from = rows.first;
    DELTACONV_UNROLL
    for (int n = 0; n < kRows; n += Walk::kStride) {
      copy16_async(to + n * kProductDepth, from, channels_ > 0 && n < rows.count);
      from += rows.step;
    }
  }

  OperandRows<T> rows_, cols_;
  int32_t channels_;  // how many exist, from this thread's first on
};

template <class T, class Tile>
class Product {
 public:
  DELTACONV_DEVICE Product(const OperandRows<T>& rows, const OperandRows<T>& cols, int32_t depth)
      : copies_(rows, cols, depth), steps_((depth + kProductDepth - 1) / kProductDepth) {
    constexpr int kWarpsAcross = Tile::kCols / Tile::kWarpCols;
    row_ = warp_index() / kWarpsAcross * Tile::kWarpRows;
    col_ = warp_index() % kWarpsAcross * Tile::kWarpCols;
    DELTACONV_UNROLL
    for (auto& row : sums_) {
      DELTACONV_UNROLL
      for (Accumulator& sum : row) sum = {{0, 0, 0, 0}};
    }
    DELTACONV_UNROLL
    for (int step = 0; step < Tile::kSteps - 1; ++step) start_copy(step);
  }

  // Runs all steps. Calls visit(step, this step's operands in shared memory) in each.
  template <class Visit>
  DELTACONV_DEVICE void run(const Visit& visit) {
    DELTACONV_NO_UNROLL
    for (int step = 0; step < steps_; ++step) {
      wait_copies<Tile::kSteps - 2>();
      sync_block();
      start_copy(step + Tile::kSteps - 1);  // replaces the step that every warp has done with
      const T* operands = place_of(step);
      multiply(operands, operands + Tile::kRows * kProductDepth);
      visit(step, operands);
    }
    wait_copies<0>();
    sync_block();
  }

  // Stores the tile's sums to shared memory, where the operands were.
  DELTACONV_DEVICE void store(float* to) const {
    for_each_pair([&](int row, int col, float left, float right) {
      *reinterpret_cast<FloatPair*>(to + row * Tile::kPitch + col) = {{left, right}};
    });
  }

  // Calls visit(row, col, left, right) with the sums of this thread that are neighbours in a row of the tile.
  template <class Visit>
  DELTACONV_DEVICE void for_each_pair(const Visit& visit) const {
    const int row = row_ + lane_index() / 4, col = col_ + lane_index() % 4 * 2;
    DELTACONV_UNROLL
    for (int i = 0; i < kRowFragments; ++i) {
      DELTACONV_UNROLL
      for (int half = 0; half < 2; ++half) {
        DELTACONV_UNROLL
        for (int j = 0; j < kColFragments; ++j) {
          const float* values = sums_[i][j].values + 2 * half;
          visit(row + 16 * i + 8 * half, col + 8 * j, values[0], values[1]);
        }
      }
    }
  }

 private:
  static constexpr int kRowFragments = Tile::kWarpRows / 16, kColFragments = Tile::kWarpCols / 8;

  DELTACONV_DEVICE T* place_of(int step) const {
    return reinterpret_cast<T*>(shared_memory()) + step % Tile::kSteps * Tile::kStepElements;
  }

  // Starts a group of copies, which is empty beyond the last step.
  DELTACONV_DEVICE void start_copy(int step) {
    if (step < steps_) copies_.start(place_of(step));
    commit_copies();
  }

  DELTACONV_DEVICE void multiply(const T* rows, const T* cols) {
    // This lane points at one row of every 16 rows; the chunks of those rows lie in one order. A fragment of the
    // columns is 8 of them, and its words are both halves of their 16 channels, in neighbouring registers, as the
    // product wants them.
    const int lane = lane_index();
    const int rows_offset = row_ * kProductDepth + chunk_offset(lane % 16, 0);
    const int cols_offset = col_ * kProductDepth + chunk_offset(lane / 16 * 8 + lane % 8, 0);
    DELTACONV_NO_UNROLL
    for (int k = 0; k < kProductDepth / 8; k += 2) {
      const T* left = rows + (rows_offset ^ 8 * (k + lane / 16));
      const T* right = cols + (cols_offset ^ 8 * (k + lane / 8 % 2));
      multiply_chunks(left, right);
    }
  }

  // Multiplies 16 channels. The side of fewer fragments stays in registers, the other passes by.
  DELTACONV_DEVICE void multiply_chunks(const T* rows, const T* cols) {
    if constexpr (kRowFragments <= kColFragments) {
      FragmentA a[kRowFragments][2];
      DELTACONV_UNROLL
      for (int i = 0; i < kRowFragments; ++i) load_rows(rows, i, a[i]);
      DELTACONV_UNROLL
      for (int j = 0; j < kColFragments; j += 2) {
        FragmentA b[2];
        load_cols(cols, j, b);
        DELTACONV_UNROLL
        for (int i = 0; i < kRowFragments; ++i) multiply_pair(i, j, a[i], b);
      }
    } else {
      FragmentA b[kColFragments / 2][2];
      DELTACONV_UNROLL
      for (int j = 0; j < kColFragments; j += 2) load_cols(cols, j, b[j / 2]);
      DELTACONV_UNROLL
      for (int i = 0; i < kRowFragments; ++i) {
        FragmentA a[2];
        load_rows(rows, i, a);
        DELTACONV_UNROLL
        for (int j = 0; j < kColFragments; j += 2) multiply_pair(i, j, a, b[j / 2]);
      }
    }
  }

  static DELTACONV_DEVICE void load_rows(const T* rows, int i, FragmentA (&a)[2]) {
    load_fragments(rows + 16 * i * kProductDepth, a[0], a[1]);
  }
  static DELTACONV_DEVICE void load_cols(const T* cols, int j, FragmentA (&b)[2]) {
    load_fragments(cols + 8 * j * kProductDepth, b[0], b[1]);
  }
  DELTACONV_DEVICE void multiply_pair(int i, int j, const FragmentA (&a)[2], const FragmentA (&b)[2]) {
    DELTACONV_UNROLL
    for (int n = 0; n < 2; ++n) multiply_add<T>(sums_[i][j + n], a[0], a[1], b[n].words[0], b[n].words[1]);
  }

  ProductCopies<T, Tile> copies_;
  int steps_, row_, col_;
  Accumulator sums_[kRowFragments][kColFragments];
};

// The product whose rows are pixels, all of one image, and whose columns are outputs.
template <class T, class Tile>
DELTACONV_DEVICE Product<T, Tile> product_of_pixels(const Projection<T>& projection, const ProductPlace<Tile>& place) {
  using Walk = OperandWalk<Tile>;
  const int64_t first = int64_t{place.image} * projection.pixels + place.row();
  return {Walk::consecutive(projection.from + first * projection.depth, projection.depth,
                            projection.pixels - place.row(), Tile::kRows),
          Walk::consecutive(projection.weight + int64_t{place.col()} * projection.depth, projection.depth,
                            projection.cols - place.col(), Tile::kCols),
          projection.depth};
}

// Reads 8 values from shared memory, side by side with those of the neighbouring lanes. Shared memory takes 16 bytes of
// 8 lanes at a time: half of the lanes read their second four first, so that the 8 meet all banks.
//
//   lane              0   1   2   3   4   5   6   7
//   first word        0   8  16  24  36  44  52  60
//   its bank          0   8  16  24   4  12  20  28
DELTACONV_DEVICE void load_eight(const float* from, float (&values)[8]) {
  const bool swapped = lane_index() / 4 % 2 == 1;
  const auto first = *reinterpret_cast<const FloatQuad*>(from + (swapped ? 4 : 0));
  const auto second = *reinterpret_cast<const FloatQuad*>(from + (swapped ? 0 : 4));
  DELTACONV_UNROLL
  for (int e = 0; e < 4; ++e) {
    values[e] = swapped ? second.values[e] : first.values[e];
    values[4 + e] = swapped ? first.values[e] : second.values[e];
  }
}

// Stores the tile's results, 8 channels of a pixel at a time. load(offset of the 8 in `to`) reads what they need from
// global memory, finish(what was read, column in the tile, sums) changes the sums into the results. The loads of
// several items are in flight before the first is waited for. Every thread of the CTA calls it after Product::run.
template <class T, class Tile, class Load, class Finish>
DELTACONV_DEVICE void store_product(const Projection<T>& projection, const ProductPlace<Tile>& place,
                                    const Product<T, Tile>& product, const Load& load, const Finish& finish) {
  auto* sums = reinterpret_cast<float*>(shared_memory());
  product.store(sums);
  sync_block();
  constexpr int kGroups = Tile::kCols / 8, kCount = Tile::kRows * kGroups / Tile::kThreads;
  constexpr int kTogether = kCount / 2;
  static_assert(Tile::kRows * kGroups % Tile::kThreads == 0 && kCount % kTogether == 0);
  DELTACONV_NO_UNROLL
  for (int first = 0; first < kCount; first += kTogether) {
    struct Item {
      int row, col;
      int64_t at;
      bool exists;
      decltype(load(int64_t{})) loaded;
    } items[kTogether];
    DELTACONV_UNROLL
    for (int n = 0; n < kTogether; ++n) {
      const int i = (first + n) * Tile::kThreads + thread_index(), row = i / kGroups, col = i % kGroups * 8;
      const int64_t pixel = int64_t{place.image} * projection.pixels + place.row() + row;
      items[n] = {row,
                  col,
                  pixel * projection.cols + place.col() + col,
                  place.row() + row < projection.pixels && place.col() + col < projection.cols,
                  {}};
      if (items[n].exists) items[n].loaded = load(items[n].at);
    }
    DELTACONV_UNROLL
    for (int n = 0; n < kTogether; ++n) {
      const Item& item = items[n];
      if (!item.exists) continue;
      float values[8];
      load_eight(sums + item.row * Tile::kPitch + item.col, values);
      finish(item.loaded, item.col, values);
      store16(projection.to + item.at, pack<T>(values));
    }
  }
}

}  // namespace deltaconv::cuda::fused_block

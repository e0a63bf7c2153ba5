// A tile of a matrix product on tensor cores: to = from . weight^T, with 16-bit operands and float32 sums.
//
// Both operands have dense channels, which the product sums over. The rows of the tile are pixels, its columns are
// output channels. Asynchronous copies bring kProductDepth channels at a time to shared memory, some steps ahead of
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

// A thread's share of both operands in global memory: one chunk of every kStride-th row. Values that do not exist are
// zero. A step walks from row to row with one pointer; a pointer for each row would take the registers of the sums.
template <class T, class Tile>
class ProductCopies {
 public:
  DELTACONV_DEVICE ProductCopies(const Projection<T>& projection, const ProductPlace<Tile>& place)
      : step_rows_(int64_t{kStride} * projection.depth), channels_(projection.depth - 8 * chunk()) {
    const int64_t pixels = projection.pixels - place.row(), cols = projection.cols - place.col();
    pixels_ = clamp(pixels, Tile::kRows) - row();
    cols_ = clamp(cols, Tile::kCols) - row();
    const int64_t first = int64_t{place.image} * projection.pixels + place.row() + row();
    from_pixels_ = projection.from + first * projection.depth + 8 * chunk();
    from_weights_ = projection.weight + int64_t{place.col() + row()} * projection.depth + 8 * chunk();
  }

  // Starts the copies of the next kProductDepth channels: pixels, then weights.
  DELTACONV_DEVICE void start(T* to) {
    T* mine = to + chunk_offset(row(), chunk());
    copy<Tile::kRows>(from_pixels_, pixels_, mine);
    copy<Tile::kCols>(from_weights_, cols_, mine + Tile::kRows * kProductDepth);
    from_pixels_ += kProductDepth;
    from_weights_ += kProductDepth;
    channels_ -= kProductDepth;
  }

 private:
  static constexpr int kChunks = kProductDepth / 8, kStride = Tile::kThreads / kChunks;
  static_assert(kStride % 8 == 0);  // so that all rows of a thread have their chunks in one order

  static DELTACONV_DEVICE int chunk() { return thread_index() % kChunks; }
  static DELTACONV_DEVICE int row() { return thread_index() / kChunks; }
  static DELTACONV_DEVICE int32_t clamp(int64_t count, int32_t most) {
    return static_cast<int32_t>(count < most ? count : most);
  }

  template <int kRows>
  DELTACONV_DEVICE void copy(const T* from, int32_t rows, T* to) const {
    static_assert(kRows % kStride == 0);
    DELTACONV_UNROLL
    for (int n = 0; n < kRows; n += kStride) {
      copy16_async(to + n * kProductDepth, from, channels_ > 0 && n < rows);
      from += step_rows_;
    }
  }

  const T *from_pixels_, *from_weights_;
  int64_t step_rows_;
  int32_t channels_, pixels_, cols_;  // how many exist, from this thread's first on
};

template <class T, class Tile>
class Product {
 public:
  DELTACONV_DEVICE Product(const Projection<T>& projection, const ProductPlace<Tile>& place)
      : copies_(projection, place), steps_((projection.depth + kProductDepth - 1) / kProductDepth) {
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

  // Runs all steps. Calls visit(step, pixels of this step in shared memory) in each.
  template <class Visit>
  DELTACONV_DEVICE void run(const Visit& visit) {
    DELTACONV_NO_UNROLL
    for (int step = 0; step < steps_; ++step) {
      wait_copies<Tile::kSteps - 2>();
      sync_block();
      start_copy(step + Tile::kSteps - 1);  // replaces the step that every warp has done with
      const T* pixels = place_of(step);
      multiply(pixels, pixels + Tile::kRows * kProductDepth);
      visit(step, pixels);
    }
    wait_copies<0>();
    sync_block();
  }

  // Stores the tile's sums to shared memory, where the operands were.
  DELTACONV_DEVICE void store(float* to) const {
    struct alignas(8) Pair {
      float left, right;
    };
    const int g = lane_index() / 4, q = lane_index() % 4;
    float* corner = to + (row_ + g) * Tile::kPitch + col_ + 2 * q;
    DELTACONV_UNROLL
    for (int i = 0; i < kRowFragments; ++i) {
      DELTACONV_UNROLL
      for (int j = 0; j < kColFragments; ++j) {
        DELTACONV_UNROLL
        for (int half = 0; half < 2; ++half) {
          float* at = corner + (16 * i + 8 * half) * Tile::kPitch + 8 * j;
          *reinterpret_cast<Pair*>(at) = {sums_[i][j].values[2 * half], sums_[i][j].values[2 * half + 1]};
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

  DELTACONV_DEVICE void multiply(const T* pixels, const T* weights) {
    // This lane points at one row of every 16 rows; the chunks of those rows lie in one order. A fragment of the
    // weights is 8 outputs, and its words are both halves of their 16 channels, in neighbouring registers, as the
    // product wants them.
    const int lane = lane_index();
    const int pixels_offset = row_ * kProductDepth + chunk_offset(lane % 16, 0);
    const int weights_offset = col_ * kProductDepth + chunk_offset(lane / 16 * 8 + lane % 8, 0);
    DELTACONV_NO_UNROLL
    for (int k = 0; k < kProductDepth / 8; k += 2) {
      const T* left = pixels + (pixels_offset ^ 8 * (k + lane / 16));
      const T* right = weights + (weights_offset ^ 8 * (k + lane / 8 % 2));
      multiply_chunks(left, right);
    }
  }

  // Multiplies 16 channels.
  DELTACONV_DEVICE void multiply_chunks(const T* pixels, const T* weights) {
    FragmentA a[kRowFragments][2];
    DELTACONV_UNROLL
    for (int i = 0; i < kRowFragments; ++i) {
      load_fragments(pixels + 16 * i * kProductDepth, a[i][0], a[i][1]);
    }
    DELTACONV_UNROLL
    for (int j = 0; j < kColFragments; j += 2) {
      FragmentA b[2];
      load_fragments(weights + 8 * j * kProductDepth, b[0], b[1]);
      DELTACONV_UNROLL
      for (int i = 0; i < kRowFragments; ++i) {
        DELTACONV_UNROLL
        for (int n = 0; n < 2; ++n) {
          multiply_add<T>(sums_[i][j + n], a[i][0], a[i][1], b[n].words[0], b[n].words[1]);
        }
      }
    }
  }

  ProductCopies<T, Tile> copies_;
  int steps_, row_, col_;
  Accumulator sums_[kRowFragments][kColFragments];
};

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
      DELTACONV_UNROLL
      for (int e = 0; e < 8; ++e) values[e] = sums[item.row * Tile::kPitch + item.col + e];
      finish(item.loaded, item.col, values);
      store16(projection.to + item.at, pack<T>(values));
    }
  }
}

}  // namespace deltaconv::cuda::fused_block

// Matrix products of a full warp on 16-bit storage types, with PTX's fragment layouts; sums are float32.
//
// Lane l = 4 g + q holds (PTX ISA, "Matrix fragments for mma.m16n8k16"; a word is two neighbouring values):
//
//   A, 16 rows x 16 columns, as two blocks of 8 columns:   words[0] = A[g][2q, 2q+1], words[1] = A[g + 8][2q,
//   2q+1] B, 16 rows x 8 columns, as two blocks of 8 rows:       B[2q, 2q+1][g] the accumulator, 16 rows x 8
//   columns:                  values = C[g][2q], C[g][2q+1], C[g + 8][2q], C[g + 8][2q+1]
//
// The two blocks of A need not be neighbours in memory, only in the product: what a block holds is up to the
// kernel.
#pragma once

#include "cuda/device/device.h"

namespace deltaconv::cuda {

struct BlockA {
  uint32_t words[2];
};

struct Accumulator {
  float values[4];
};

#if defined(__CUDACC__)

namespace ptx {

DELTACONV_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

}  // namespace ptx

// Two blocks of A from shared memory. Lane l points at the 16 bytes of row l % 16 of block l / 16.
DELTACONV_DEVICE void load_blocks(const void* row, BlockA& left, BlockA& right) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(left.words[0]), "=r"(left.words[1]), "=r"(right.words[0]), "=r"(right.words[1])
               : "r"(ptx::shared_address(row))
               : "memory");
}

// One block of A. Lane l < 16 points at the 16 bytes of row l; the other lanes' pointers are not used.
DELTACONV_DEVICE void load_block(const void* row, BlockA& block) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(block.words[0]), "=r"(block.words[1])
               : "r"(ptx::shared_address(row))
               : "memory");
}

// Two blocks of A, each stored transposed: memory row r, 16 bytes long, is a column of the block. Lane l
// points at columns l % 8 of the upper (l / 8 even) or lower 8 rows (l / 8 odd) of block l / 16.
DELTACONV_DEVICE void load_blocks_transposed(const void* row, BlockA& left, BlockA& right) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(left.words[0]), "=r"(left.words[1]), "=r"(right.words[0]), "=r"(right.words[1])
               : "r"(ptx::shared_address(row))
               : "memory");
}

// One block of A, stored transposed. Lane l < 16 points at columns l % 8 of the upper (l < 8) or lower 8
// rows; the other lanes' pointers are not used.
DELTACONV_DEVICE void load_block_transposed(const void* row, BlockA& block) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(block.words[0]), "=r"(block.words[1])
               : "r"(ptx::shared_address(row))
               : "memory");
}

#define DELTACONV_MMA_K16(TYPE)                                                    \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                       \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"       \
      : "+f"(c.values[0]), "+f"(c.values[1]), "+f"(c.values[2]), "+f"(c.values[3]) \
      : "r"(left.words[0]), "r"(left.words[1]), "r"(right.words[0]), "r"(right.words[1]), "r"(b0), "r"(b1))
#define DELTACONV_MMA_K8(TYPE)                                                                                         \
  asm("mma.sync.aligned.m16n8k8.row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};" \
      : "+f"(c.values[0]), "+f"(c.values[1]), "+f"(c.values[2]), "+f"(c.values[3])                                     \
      : "r"(a.words[0]), "r"(a.words[1]), "r"(b0))

// c += [left right] . [b0; b1]
template <class T>
DELTACONV_DEVICE void multiply_add(Accumulator& c, const BlockA& left, const BlockA& right, uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, Half>) {
    DELTACONV_MMA_K16("f16");
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    DELTACONV_MMA_K16("bf16");
  }
}

// c += a . b0
template <class T>
DELTACONV_DEVICE void multiply_add(Accumulator& c, const BlockA& a, uint32_t b0) {
  if constexpr (std::is_same_v<T, Half>) {
    DELTACONV_MMA_K8("f16");
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    DELTACONV_MMA_K8("bf16");
  }
}

#undef DELTACONV_MMA_K16
#undef DELTACONV_MMA_K8

#else

namespace host {

// The rows that the lanes point at are exchanged, but each lane reads what becomes its own: sanitizers see
// it.
template <int kMatrices>
void load_matrices(const void* row, bool transposed, uint32_t (&words)[kMatrices]) {
  struct Rows {
    const std::byte* of[2 * kMatrices];  // of a matrix, those of this lane's two values
  };
  const Rows rows = warp_collective<Rows>(row, [transposed](const void* const* in, Rows* out) {
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int i = 0; i < 2 * kMatrices; ++i) {
        const int from = transposed ? lane % 4 * 2 + i % 2 : lane / 4;
        out[lane].of[i] = static_cast<const std::byte*>(in[i / 2 * 8 + from]);
      }
    }
  });
  const int lane = lane_index();
  for (int i = 0; i < 2 * kMatrices; ++i) {
    check_aligned(rows.of[i]);
    const int column = transposed ? lane / 4 : lane % 4 * 2 + i % 2;
    uint16_t value;
    std::memcpy(&value, rows.of[i] + 2 * column, 2);
    words[i / 2] = i % 2 == 0 ? value : words[i / 2] | uint32_t(value) << 16;
  }
}

// Value i of a word.
template <class T>
float value_of(uint32_t word, int i) {
  return to_float(T{static_cast<uint16_t>(word >> (16 * i))});
}

template <class T, int kBlocks>
void multiply_add(Accumulator& c, const BlockA* a, const uint32_t* b) {
  struct Operands {
    BlockA a[kBlocks];
    uint32_t b[kBlocks];
    Accumulator c;
  } mine;
  std::memcpy(mine.a, a, sizeof(mine.a));
  std::memcpy(mine.b, b, sizeof(mine.b));
  mine.c = c;
  c = warp_collective<Accumulator>(mine, [](const Operands* in, Accumulator* out) {
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = in[lane].c.values[i];
        for (int k = 0; k < 8 * kBlocks; ++k) {
          const uint32_t a_word = in[row % 8 * 4 + k % 8 / 2].a[k / 8].words[row / 8];
          const uint32_t b_word = in[column * 4 + k % 8 / 2].b[k / 8];
          sum += value_of<T>(a_word, k % 2) * value_of<T>(b_word, k % 2);
        }
        out[lane].values[i] = sum;
      }
    }
  });
}

}  // namespace host

inline void load_blocks(const void* row, BlockA& left, BlockA& right) {
  uint32_t words[4];
  host::load_matrices<4>(row, false, words);
  left = {{words[0], words[1]}};
  right = {{words[2], words[3]}};
}

inline void load_block(const void* row, BlockA& block) {
  uint32_t words[2];
  host::load_matrices<2>(row, false, words);
  block = {{words[0], words[1]}};
}

inline void load_blocks_transposed(const void* row, BlockA& left, BlockA& right) {
  uint32_t words[4];
  host::load_matrices<4>(row, true, words);
  left = {{words[0], words[1]}};
  right = {{words[2], words[3]}};
}

inline void load_block_transposed(const void* row, BlockA& block) {
  uint32_t words[2];
  host::load_matrices<2>(row, true, words);
  block = {{words[0], words[1]}};
}

template <class T>
void multiply_add(Accumulator& c, const BlockA& left, const BlockA& right, uint32_t b0, uint32_t b1) {
  const BlockA a[] = {left, right};
  const uint32_t b[] = {b0, b1};
  host::multiply_add<T, 2>(c, a, b);
}

template <class T>
void multiply_add(Accumulator& c, const BlockA& a, uint32_t b0) {
  host::multiply_add<T, 1>(c, &a, &b0);
}

#endif

}  // namespace deltaconv::cuda

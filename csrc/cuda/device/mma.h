// Matrix products of a full warp on 16-bit storage types, with PTX's fragment layouts. Sums are float32.
//
// Lane l = 4 g + q holds these values (PTX ISA, "Matrix fragments for mma.m16n8k16"); a word is
// two neighbouring values:
//
//   A, 16 rows x 16 columns, in two fragments of 8 columns   words[0] = A[g][2q], A[g][2q + 1]
//                                                            words[1] = A[g + 8][2q], A[g + 8][2q + 1]
//   B, 16 rows x 8 columns, in two fragments of 8 rows       the word = B[2q][g], B[2q + 1][g]
//   C, the accumulator, 16 rows x 8 columns                  values[0], [1] = C[g][2q], C[g][2q + 1]
//                                                            values[2], [3] = C[g + 8][2q], C[g + 8][2q + 1]
//
// The lane and value (lane.value) that hold each element of the first four rows of C:
//
//             column 0  1     2  3     4  5     6  7
//   row 0       0.0  0.1   1.0  1.1   2.0  2.1   3.0  3.1
//   row 1       4.0  4.1   5.0  5.1   6.0  6.1   7.0  7.1
//   row 2       8.0  8.1   9.0  9.1  10.0 10.1  11.0 11.1
//   row 3      12.0 12.1  13.0 13.1  14.0 14.1  15.0 15.1
//
// The two fragments of A need to be neighbours in the product alone, not in memory: each kernel decides what they hold.
#pragma once

#include "cuda/device/device.h"

namespace deltaconv::cuda {

struct FragmentA {
  uint32_t words[2];
};

struct Accumulator {
  float values[4];
};

#if defined(__CUDACC__)

namespace ptx {

DELTACONV_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

}  // namespace ptx

// Loads two fragments of A from shared memory. Lane l points at the 16 bytes of row l % 16 of fragment l / 16, less
// kOffset bytes, which are the same for all lanes and part of the instruction.
template <int kOffset = 0>
DELTACONV_DEVICE void load_fragments(const void* row, FragmentA& left, FragmentA& right) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(left.words[0]), "=r"(left.words[1]), "=r"(right.words[0]), "=r"(right.words[1])
               : "r"(ptx::shared_address(row)), "n"(kOffset)
               : "memory");
}

// Loads one fragment of A. Lane l < 16 points at the 16 bytes of row l; the pointers of the other lanes are not used.
DELTACONV_DEVICE void load_fragment(const void* row, FragmentA& block) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(block.words[0]), "=r"(block.words[1])
               : "r"(ptx::shared_address(row))
               : "memory");
}

// Loads two fragments of A that are stored transposed: 16 bytes of memory are a column of 8 rows. Lane l points at
// column l % 8 of the upper (l / 8 even) or lower 8 rows (l / 8 odd) of fragment l / 16.
DELTACONV_DEVICE void load_fragments_transposed(const void* row, FragmentA& left, FragmentA& right) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(left.words[0]), "=r"(left.words[1]), "=r"(right.words[0]), "=r"(right.words[1])
               : "r"(ptx::shared_address(row))
               : "memory");
}

// Loads one fragment of A that is stored transposed. Lane l < 16 points at column l % 8 of the upper (l < 8) or lower 8
// rows; the pointers of the other lanes are not used.
DELTACONV_DEVICE void load_fragment_transposed(const void* row, FragmentA& block) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(block.words[0]), "=r"(block.words[1])
               : "r"(ptx::shared_address(row))
               : "memory");
}

// The sum and the addend are separate operands, so that many sums can start from one addend without copies of it.
#define DELTACONV_MMA_K16(TYPE)                                                                             \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                                                \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"                            \
      : "=f"(sum.values[0]), "=f"(sum.values[1]), "=f"(sum.values[2]), "=f"(sum.values[3])                  \
      : "r"(left.words[0]), "r"(left.words[1]), "r"(right.words[0]), "r"(right.words[1]), "r"(b0), "r"(b1), \
        "f"(c.values[0]), "f"(c.values[1]), "f"(c.values[2]), "f"(c.values[3]))
#define DELTACONV_MMA_K8(TYPE)                                                                           \
  asm("mma.sync.aligned.m16n8k8.row.col.f32." TYPE "." TYPE                                              \
      ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"                                        \
      : "=f"(sum.values[0]), "=f"(sum.values[1]), "=f"(sum.values[2]), "=f"(sum.values[3])               \
      : "r"(a.words[0]), "r"(a.words[1]), "r"(b0), "f"(c.values[0]), "f"(c.values[1]), "f"(c.values[2]), \
        "f"(c.values[3]))

// c += [left right] . [b0; b1]
template <class T>
DELTACONV_DEVICE void multiply_add(Accumulator& c, const FragmentA& left, const FragmentA& right, uint32_t b0,
                                   uint32_t b1) {
  Accumulator sum;
  if constexpr (std::is_same_v<T, Half>) {
    DELTACONV_MMA_K16("f16");
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    DELTACONV_MMA_K16("bf16");
  }
  c = sum;
}

// c += a . b0
template <class T>
DELTACONV_DEVICE void multiply_add(Accumulator& c, const FragmentA& a, uint32_t b0) {
  Accumulator sum;
  if constexpr (std::is_same_v<T, Half>) {
    DELTACONV_MMA_K8("f16");
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    DELTACONV_MMA_K8("bf16");
  }
  c = sum;
}

#undef DELTACONV_MMA_K16
#undef DELTACONV_MMA_K8

#else

namespace host {

// Lanes exchange the addresses that they point at, then each lane reads the values that become its own. Sanitizers see
// that the reading lane needs them.
template <int kMatrices>
void load_matrices(const void* row, bool transposed, uint32_t (&words)[kMatrices]) {
  struct Rows {
    const std::byte* at[2 * kMatrices];  // two for each matrix: the rows of this lane's two values
  };
  const Rows rows = warp_collective<Rows>(row, [transposed](const void* const* in, Rows* out) {
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int i = 0; i < 2 * kMatrices; ++i) {
        const int from = transposed ? lane % 4 * 2 + i % 2 : lane / 4;
        out[lane].at[i] = static_cast<const std::byte*>(in[i / 2 * 8 + from]);
      }
    }
  });
  const int lane = lane_index();
  for (int i = 0; i < 2 * kMatrices; ++i) {
    check_aligned(rows.at[i]);
    const int column = transposed ? lane / 4 : lane % 4 * 2 + i % 2;
    uint16_t value;
    std::memcpy(&value, rows.at[i] + 2 * column, 2);
    words[i / 2] = i % 2 == 0 ? value : words[i / 2] | uint32_t(value) << 16;
  }
}

// Value i (0 or 1) of a word.
template <class T>
float value_of(uint32_t word, int i) {
  return to_float(T{static_cast<uint16_t>(word >> (16 * i))});
}

template <class T, int kFragments>
void multiply_add(Accumulator& c, const FragmentA* a, const uint32_t* b) {
  struct Operands {
    FragmentA a[kFragments];
    uint32_t b[kFragments];
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
        for (int k = 0; k < 8 * kFragments; ++k) {
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

template <int kOffset = 0>
void load_fragments(const void* row, FragmentA& left, FragmentA& right) {
  uint32_t words[4];
  host::load_matrices<4>(static_cast<const std::byte*>(row) + kOffset, false, words);
  left = {{words[0], words[1]}};
  right = {{words[2], words[3]}};
}

inline void load_fragment(const void* row, FragmentA& block) {
  uint32_t words[2];
  host::load_matrices<2>(row, false, words);
  block = {{words[0], words[1]}};
}

inline void load_fragments_transposed(const void* row, FragmentA& left, FragmentA& right) {
  uint32_t words[4];
  host::load_matrices<4>(row, true, words);
  left = {{words[0], words[1]}};
  right = {{words[2], words[3]}};
}

inline void load_fragment_transposed(const void* row, FragmentA& block) {
  uint32_t words[2];
  host::load_matrices<2>(row, true, words);
  block = {{words[0], words[1]}};
}

template <class T>
void multiply_add(Accumulator& c, const FragmentA& left, const FragmentA& right, uint32_t b0, uint32_t b1) {
  const FragmentA a[] = {left, right};
  const uint32_t b[] = {b0, b1};
  host::multiply_add<T, 2>(c, a, b);
}

template <class T>
void multiply_add(Accumulator& c, const FragmentA& a, uint32_t b0) {
  host::multiply_add<T, 1>(c, &a, &b0);
}

#endif

}  // namespace deltaconv::cuda

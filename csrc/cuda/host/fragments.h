// One warp's matrix product through the fragments of device/mma.h, for their test.
#pragma once

#include "cuda/device/mma.h"
#include "cuda/plan/plan.h"

namespace deltaconv::cuda {

template <class T>
struct ProductArguments {
  const T *a, *b;       // [16, columns], [columns, 8]; columns is 8 or 16
  const float* addend;  // [16, 8]
  float* result;        // addend + a b
  int columns;
  bool transposed;  // a goes through shared memory as [columns, 16]
};

template <class T>
struct FragmentProduct {
  static constexpr int kMaxThreads = kWarp, kMinBlocks = 1;

  static DELTACONV_DEVICE void run(const ProductArguments<T>& p) {
    T* shared = reinterpret_cast<T*>(shared_memory());
    for (int i = lane_index(); i < 16 * p.columns; i += kWarp) {
      const int row = i / p.columns, column = i % p.columns;
      shared[p.transposed ? column * 16 + row : i] = p.a[i];
    }
    sync_warp();
    const int lane = lane_index(), g = lane / 4, q = lane % 4;
    const auto at = [&](int n) { return (g + n / 2 * 8) * 8 + 2 * q + n % 2; };
    Accumulator sum;
    for (int n = 0; n < 4; ++n) sum.values[n] = p.addend[at(n)];
    const auto word = [&](int k) { return uint32_t(p.b[k * 8 + g].bits) | uint32_t(p.b[k * 8 + 8 + g].bits) << 16; };
    FragmentA left, right;
    if (p.columns == 8) {
      load_fragment(shared + lane % 16 * 8, left);
      multiply_add<T>(sum, left, word(2 * q));
    } else {
      if (p.transposed) {
        load_fragments_transposed(shared + (lane / 16 * 8 + lane % 8) * 16 + lane / 8 % 2 * 8, left, right);
      } else {
        load_fragments(shared + lane % 16 * 16 + lane / 16 * 8, left, right);
      }
      multiply_add<T>(sum, left, right, word(2 * q), word(2 * q + 8));
    }
    for (int n = 0; n < 4; ++n) p.result[at(n)] = sum.values[n];
  }
};

// Runs the product of operands that are given by address, as in ProductArguments.
inline void multiply_fragments(ElementType type, uintptr_t a, uintptr_t b, uintptr_t addend, uintptr_t result,
                               int columns, bool transposed) {
  const auto run = [&](auto element) {
    using T = decltype(element);
    launch<FragmentProduct<T>>(Grid{1, kWarp, 16 * 16 * sizeof(T)},
                               ProductArguments<T>{reinterpret_cast<const T*>(a), reinterpret_cast<const T*>(b),
                                                   reinterpret_cast<const float*>(addend),
                                                   reinterpret_cast<float*>(result), columns, transposed},
                               Stream{});
  };
  type == ElementType::kFloat16 ? run(Half{}) : run(BFloat16{});
}

}  // namespace deltaconv::cuda

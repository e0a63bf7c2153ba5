// Memory of the sanitizers' programs.
#pragma once

#include <cmath>
#include <cstring>
#include <random>

#include "cuda/device/device.h"

namespace deltaconv::cuda {

// An array that is exactly as large as it should be, so that what lies beyond is not ours.
template <class T>
struct Buffer {
  explicit Buffer(int64_t count) : values(new T[static_cast<size_t>(count)]), count(count) {}
  ~Buffer() { delete[] values; }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  uintptr_t address() const { return reinterpret_cast<uintptr_t>(values); }

  void randomise(std::mt19937& generator, float deviation = 1) {
    std::normal_distribution<float> normal(0, deviation);
    for (int64_t i = 0; i < count; ++i) values[i] = from_float<T>(normal(generator));
  }
  void poison() { std::memset(values, 0xff, static_cast<size_t>(count) * sizeof(T)); }
  bool finite() const {
    for (int64_t i = 0; i < count; ++i) {
      if (!std::isfinite(to_float(values[i]))) return false;
    }
    return true;
  }

  T* values;
  int64_t count;
};

}  // namespace deltaconv::cuda

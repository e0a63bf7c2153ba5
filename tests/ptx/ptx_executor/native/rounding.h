// Conversions between float32 and the 16-bit types.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace ptx {

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float from_bfloat16(uint16_t bits) { return float_of_bits(uint32_t{bits} << 16); }
inline float from_float16(uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return static_cast<float>(value);
}

// To nearest, ties to even; NaN becomes the one that PTX calls canonical.
inline uint16_t to_bfloat16(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>(std::isnan(value) ? 0x7fffu : rounded);
}
inline uint16_t to_float16(float value) {
  const auto rounded = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &rounded, 2);
  return std::isnan(value) ? uint16_t{0x7fff} : bits;
}

}  // namespace ptx

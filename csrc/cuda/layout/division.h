// Divides by numbers that are known before a launch with a multiplication and a shift. A GPU has
// no division instruction.
#pragma once

#include <cstdint>

#include "cuda/layout/geometry.h"

namespace deltaconv::cuda {

// Divides n < 2^31 by `value`. With log such that 2^(log - 1) < value <= 2^log, the quotient is
//     n * factor >> (31 + log),  factor = ceil(2^(31 + log) / value).
// The factor is less than 1 above the exact one, so that the quotient before rounding is off by less than n / 2^(31 +
// log) < 1 / value, which cannot reach the next integer.
struct Divisor {
  uint32_t value = 1, factor = 0, shift = 0;

  Divisor() = default;
  explicit Divisor(uint32_t value) : value(value) {
    if (value == 1) return;
    uint32_t log = 1;
    while (uint64_t{1} << log < value) ++log;
    factor = static_cast<uint32_t>(((uint64_t{1} << (31 + log)) + value - 1) / value);
    shift = log - 1;
  }
  DELTACONV_ANYWHERE uint32_t quotient(uint32_t n) const {
    return value == 1 ? n : static_cast<uint32_t>(uint64_t{n} * factor >> 32) >> shift;
  }
  // Returns the quotient and leaves the remainder in n.
  DELTACONV_ANYWHERE uint32_t divide(uint32_t& n) const {
    const uint32_t quotient_of_n = quotient(n);
    n -= quotient_of_n * value;
    return quotient_of_n;
  }
};

}  // namespace deltaconv::cuda

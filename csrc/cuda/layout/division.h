// Divisions by numbers that are known before a launch, without a division: a multiplication and a shift.
#pragma once

#include <cstdint>

#include "cuda/layout/geometry.h"

namespace deltaconv::cuda {

// Divides n < 2^31. With 2^(log - 1) < value <= 2^log the quotient is n * ceil(2^(31 + log) / value) >> (31 +
// log): the factor is less than 1 above the exact one, so that the product is off by less than n / 2^(31 +
// log), which is less than 1 / value.
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
  // The quotient; the remainder takes n's place.
  DELTACONV_ANYWHERE uint32_t divide(uint32_t& n) const {
    const uint32_t quotient_of_n = quotient(n);
    n -= quotient_of_n * value;
    return quotient_of_n;
  }
};

}  // namespace deltaconv::cuda

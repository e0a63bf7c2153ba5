// Instructions that compute each lane's result from the lane's own operands.
#pragma once

#include <tuple>
#include <type_traits>
#include <utility>

#include "warp.h"

namespace ptx {

// Stands for a predicate register in a signature.
struct Predicate {};

template <class T>
inline constexpr int8_t kWidth = sizeof(T);
template <>
inline constexpr int8_t kWidth<Predicate> = 0;

template <class T>
struct Source {
  const T* values;
  Source(Warp& warp, int32_t operand) : values(warp.at<T>(operand)) {}
  T operator[](int lane) const { return values[lane]; }
};
template <>
struct Source<Predicate> {
  uint32_t bits;
  Source(Warp& warp, int32_t operand) : bits(warp.predicate(operand)) {}
  bool operator[](int lane) const { return bits >> lane & 1; }
};

template <class Function, class Result, class... Operands>
struct Lanes {
  template <size_t... I>
  static void run(Warp& warp, const Instruction& in, uint32_t mask, std::index_sequence<I...>) {
    const std::tuple<Source<Operands>...> sources{Source<Operands>(warp, in.operands[I + 1])...};
    const Function function{};
    if (warp.any_undefined) warp.define(in.operands[0], mask, (0u | ... | warp.undefined(in.operands[I + 1])));
    if constexpr (std::is_same_v<Result, Predicate>) {
      uint32_t bits = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        bits |= uint32_t(static_cast<bool>(function(std::get<I>(sources)[lane]...))) << lane;
      }
      uint32_t& to = warp.predicate(in.operands[0]);
      to = (to & ~mask) | (bits & mask);
    } else {
      Result* to = warp.at<Result>(in.operands[0]);
      if (mask == kAllLanes) {
#pragma GCC ivdep
        for (int lane = 0; lane < kLanes; ++lane) to[lane] = function(std::get<I>(sources)[lane]...);
      } else {
        for_each_lane(mask, [&](int lane) { to[lane] = function(std::get<I>(sources)[lane]...); });
      }
    }
  }
};

// An opcode by its function of a lane's operands; Signature is Result(Operands...), with PTX's types.
template <class Signature>
struct OpcodeOf;
template <class Result, class... Operands>
struct OpcodeOf<Result(Operands...)> {
  template <class Function>
  static Opcode make(Function) {
    const Handler run = [](Warp& warp, const Instruction& in, uint32_t mask) {
      Lanes<Function, Result, Operands...>::run(warp, in, mask, std::index_sequence_for<Operands...>{});
    };
    return {run, {kWidth<Result>, kWidth<Operands>...}};
  }
};

template <class Signature, class Function>
Opcode lanes(Function function) {
  return OpcodeOf<Signature>::make(function);
}

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using f16 = _Float16;
using f32 = float;
using f64 = double;

// By the type's name in PTX.
template <class T>
struct Named {
  using Type = T;
  const char* name;
};
template <class Function, class... T>
void for_each_type(const Function& function, Named<T>... types) {
  (function(types), ...);
}

}  // namespace ptx

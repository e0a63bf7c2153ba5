// float32 and float64.
#include <cfenv>
#include <cmath>
#include <limits>

#include "lanes.h"
#include "rounding.h"

namespace ptx {

namespace {

f32 flush(f32 value) { return std::fabs(value) < 0x1p-126f ? std::copysign(0.0f, value) : value; }

// An approximation may be off by so many units in the last place. Half of one is its rounding; by the rest
// the result is moved, up or down as the operand's bits say, so that nothing relies on better than the manual
// promises.
f32 approximate(f64 exact, f64 units, f32 operand) {
  u32 bits;
  std::memcpy(&bits, &operand, 4);
  const f64 sign = (bits * 0x9e3779b9u) >> 31 ? 1 : -1;
  return static_cast<f32>(exact * (1 + sign * (units - 0.5) * 0x1p-24));
}

// If one of the two is NaN, the other.
template <class T>
T minimum(T a, T b) {
  return std::isnan(a) ? b : std::isnan(b) ? a : a < b || (a == b && std::signbit(a)) ? a : b;
}
template <class T>
T maximum(T a, T b) {
  return std::isnan(a) ? b : std::isnan(b) ? a : a > b || (a == b && std::signbit(b)) ? a : b;
}

template <class T>
void add_arithmetic(Opcodes& table, const std::string& type) {
  for (const char* rounding : {"", "rn."}) {  // to nearest is what an instruction without a rounding does
    const std::string name = rounding + type;
    table["add." + name] = lanes<T(T, T)>([](T a, T b) { return a + b; });
    table["sub." + name] = lanes<T(T, T)>([](T a, T b) { return a - b; });
    table["mul." + name] = lanes<T(T, T)>([](T a, T b) { return a * b; });
  }
  table["fma.rn." + type] = lanes<T(T, T, T)>([](T a, T b, T c) { return std::fma(a, b, c); });
  table["neg." + type] = lanes<T(T)>([](T a) { return -a; });
  table["abs." + type] = lanes<T(T)>([](T a) { return std::fabs(a); });
  table["min." + type] = lanes<T(T, T)>([](T a, T b) { return minimum(a, b); });
  table["max." + type] = lanes<T(T, T)>([](T a, T b) { return maximum(a, b); });
  table["rcp.rn." + type] = lanes<T(T)>([](T a) { return 1 / a; });
  table["div.rn." + type] = lanes<T(T, T)>([](T a, T b) { return a / b; });
  table["sqrt.rn." + type] = lanes<T(T)>([](T a) { return std::sqrt(a); });
}

template <class T>
void add_comparisons(Opcodes& table, const std::string& type) {
  const auto add = [&](const char* name, const Opcode& opcode) { table["setp." + (name + ("." + type))] = opcode; };
  add("eq", lanes<Predicate(T, T)>([](T a, T b) { return a == b; }));
  add("ne", lanes<Predicate(T, T)>([](T a, T b) { return a < b || a > b; }));
  add("lt", lanes<Predicate(T, T)>([](T a, T b) { return a < b; }));
  add("le", lanes<Predicate(T, T)>([](T a, T b) { return a <= b; }));
  add("gt", lanes<Predicate(T, T)>([](T a, T b) { return a > b; }));
  add("ge", lanes<Predicate(T, T)>([](T a, T b) { return a >= b; }));
  // With these, NaN compares true.
  add("equ", lanes<Predicate(T, T)>([](T a, T b) { return !(a < b || a > b); }));
  add("neu", lanes<Predicate(T, T)>([](T a, T b) { return !(a == b); }));
  add("ltu", lanes<Predicate(T, T)>([](T a, T b) { return !(a >= b); }));
  add("leu", lanes<Predicate(T, T)>([](T a, T b) { return !(a > b); }));
  add("gtu", lanes<Predicate(T, T)>([](T a, T b) { return !(a <= b); }));
  add("geu", lanes<Predicate(T, T)>([](T a, T b) { return !(a < b); }));
  add("num", lanes<Predicate(T, T)>([](T a, T b) { return !std::isnan(a) && !std::isnan(b); }));
  add("nan", lanes<Predicate(T, T)>([](T a, T b) { return std::isnan(a) || std::isnan(b); }));
}

// Two float32 in a register of 64 bits, from sm_100 on.
struct Pair {
  f32 low, high;
};

void add_pairs(Opcodes& table) {
  for (const char* rounding : {"", "rn."}) {
    const std::string name = std::string(rounding) + "f32x2";
    table["add." + name] = lanes<Pair(Pair, Pair)>([](Pair a, Pair b) { return Pair{a.low + b.low, a.high + b.high}; });
    table["sub." + name] = lanes<Pair(Pair, Pair)>([](Pair a, Pair b) { return Pair{a.low - b.low, a.high - b.high}; });
    table["mul." + name] = lanes<Pair(Pair, Pair)>([](Pair a, Pair b) { return Pair{a.low * b.low, a.high * b.high}; });
  }
  table["fma.rn.f32x2"] = lanes<Pair(Pair, Pair, Pair)>(
      [](Pair a, Pair b, Pair c) { return Pair{std::fma(a.low, b.low, c.low), std::fma(a.high, b.high, c.high)}; });
}

// A 16-bit value and a float32, from sm_100 on.
void add_mixed_sums(Opcodes& table) {
  for (const char* rounding : {"", "rn."}) {
    const std::string name = std::string("add.") + rounding + "f32.";
    table[name + "bf16"] = lanes<f32(u16, f32)>([](u16 a, f32 b) { return from_bfloat16(a) + b; });
    table[name + "f16"] = lanes<f32(u16, f32)>([](u16 a, f32 b) { return from_float16(a) + b; });
  }
}

// Towards minus infinity.
void fma_down(Warp& warp, const Instruction& in, uint32_t mask) {
  std::fesetround(FE_DOWNWARD);
  for_each_lane(mask, [&](int lane) {
    volatile f32 a = warp.at<f32>(in.operands[1])[lane];  // not computed before the rounding is set
    volatile f32 result = std::fma(a, warp.at<f32>(in.operands[2])[lane], warp.at<f32>(in.operands[3])[lane]);
    warp.at<f32>(in.operands[0])[lane] = result;
  });
  std::fesetround(FE_TONEAREST);
  const uint32_t undefined =
      warp.undefined(in.operands[1]) | warp.undefined(in.operands[2]) | warp.undefined(in.operands[3]);
  warp.define(in.operands[0], mask, undefined);
}

// Errors in units in the last place, from the PTX ISA.
void add_approximations(Opcodes& table) {
  table["ex2.approx.ftz.f32"] =
      lanes<f32(f32)>([](f32 a) { return flush(approximate(std::exp2(static_cast<f64>(flush(a))), 4, a)); });
  table["ex2.approx.f32"] = lanes<f32(f32)>([](f32 a) { return approximate(std::exp2(static_cast<f64>(a)), 4, a); });
  table["rcp.approx.ftz.f32"] =
      lanes<f32(f32)>([](f32 a) { return flush(approximate(1.0 / static_cast<f64>(flush(a)), 1, a)); });
  table["div.full.f32"] = lanes<f32(f32, f32)>([](f32 a, f32 b) { return approximate(f64(a) / f64(b), 2, b); });
  table["div.approx.f32"] = lanes<f32(f32, f32)>([](f32 a, f32 b) {
    const f32 size = std::fabs(b);
    if (size > 0x1p126f && size < std::numeric_limits<f32>::infinity()) {  // its reciprocal underflows
      return std::isinf(a) ? std::numeric_limits<f32>::quiet_NaN() : std::copysign(0.0f, a) * std::copysign(1.0f, b);
    }
    return approximate(f64(a) / f64(b), 2, b);
  });
}

}  // namespace

void add_floats(Opcodes& table) {
  for_each_type(
      [&](auto type) {
        using T = typename decltype(type)::Type;
        add_arithmetic<T>(table, type.name);
        add_comparisons<T>(table, type.name);
      },
      Named<f32>{"f32"}, Named<f64>{"f64"});
  table["fma.rm.f32"] = {fma_down, {4, 4, 4, 4}};
  add_pairs(table);
  add_mixed_sums(table);
  add_approximations(table);
}

}  // namespace ptx

// cvt.
#include <cmath>
#include <limits>

#include "lanes.h"
#include "rounding.h"

namespace ptx {

namespace {

// An integer may lie in a wider register, whose upper bits do not count: a variant by the register's bits.
template <class To, class From>
void add_integer(Opcodes& table, const std::string& to, const std::string& from) {
  const std::string name = "cvt." + to + "." + from;
  const auto add = [&](auto wide) {
    using Register = decltype(wide);
    if constexpr (sizeof(Register) >= sizeof(From)) {
      table[name + "/" + std::to_string(8 * sizeof(Register))] =
          lanes<To(Register)>([](Register a) { return static_cast<To>(static_cast<From>(a)); });
    }
  };
  add(u16{});
  add(u32{});
  add(u64{});
}

// A byte as a result fills a register of 16 bits, extended like the byte.
template <class Byte, class From>
void add_to_byte(Opcodes& table, const std::string& to, const std::string& from) {
  using Register = std::conditional_t<std::is_signed_v<Byte>, s16, u16>;
  table["cvt." + to + "." + from] =
      lanes<Register(From)>([](From a) { return static_cast<Register>(static_cast<Byte>(a)); });
}

template <class Float, class Integer>
void add_from_integer(Opcodes& table, const std::string& to, const std::string& from) {
  table["cvt.rn." + to + "." + from] = lanes<Float(Integer)>([](Integer a) { return static_cast<Float>(a); });
}

// Saturates; NaN becomes 0.
template <class Integer>
Integer saturated(f64 value) {
  constexpr f64 low = static_cast<f64>(std::numeric_limits<Integer>::min());
  constexpr f64 high = static_cast<f64>(std::numeric_limits<Integer>::max());
  if (std::isnan(value)) return 0;
  if (value <= low) return std::numeric_limits<Integer>::min();
  return value >= high ? std::numeric_limits<Integer>::max() : static_cast<Integer>(value);
}

template <class Integer>
void add_to_integer(Opcodes& table, const std::string& to) {
  table["cvt.rzi." + to + ".f32"] = lanes<Integer(f32)>([](f32 a) { return saturated<Integer>(std::trunc(f64(a))); });
  table["cvt.rmi." + to + ".f32"] = lanes<Integer(f32)>([](f32 a) { return saturated<Integer>(std::floor(f64(a))); });
  table["cvt.rpi." + to + ".f32"] = lanes<Integer(f32)>([](f32 a) { return saturated<Integer>(std::ceil(f64(a))); });
  table["cvt.rni." + to + ".f32"] =
      lanes<Integer(f32)>([](f32 a) { return saturated<Integer>(std::nearbyint(f64(a))); });
}

void add_halves(Opcodes& table) {
  table["cvt.f32.f16"] = lanes<f32(u16)>([](u16 a) { return from_float16(a); });
  table["cvt.f32.bf16"] = lanes<f32(u16)>([](u16 a) { return from_bfloat16(a); });
  table["cvt.rn.f16.f32"] = lanes<u16(f32)>([](f32 a) { return to_float16(a); });
  table["cvt.rn.bf16.f32"] = lanes<u16(f32)>([](f32 a) { return to_bfloat16(a); });
  // The first operand goes to the upper half.
  table["cvt.rn.f16x2.f32"] =
      lanes<u32(f32, f32)>([](f32 a, f32 b) { return u32(to_float16(a)) << 16 | to_float16(b); });
  table["cvt.rn.bf16x2.f32"] =
      lanes<u32(f32, f32)>([](f32 a, f32 b) { return u32(to_bfloat16(a)) << 16 | to_bfloat16(b); });
}

}  // namespace

void add_conversions(Opcodes& table) {
  const auto with_integers = [](const auto& function) {
    for_each_type(function, Named<s16>{"s16"}, Named<s32>{"s32"}, Named<s64>{"s64"}, Named<u16>{"u16"},
                  Named<u32>{"u32"}, Named<u64>{"u64"});
  };
  with_integers([&](auto to) {
    using To = typename decltype(to)::Type;
    with_integers([&](auto from) { add_integer<To, typename decltype(from)::Type>(table, to.name, from.name); });
    add_to_byte<s8, To>(table, "s8", to.name);
    add_to_byte<u8, To>(table, "u8", to.name);
    add_integer<To, s8>(table, to.name, "s8");
    add_integer<To, u8>(table, to.name, "u8");
    add_from_integer<f32, To>(table, "f32", to.name);
    add_from_integer<f64, To>(table, "f64", to.name);
    add_to_integer<To>(table, to.name);
  });
  add_halves(table);
  table["cvt.f64.f32"] = lanes<f64(f32)>([](f32 a) { return static_cast<f64>(a); });
  table["cvt.rn.f32.f64"] = lanes<f32(f64)>([](f64 a) { return static_cast<f32>(a); });
  // Into [0, 1]; NaN becomes 0.
  table["cvt.sat.f32.f32"] = lanes<f32(f32)>([](f32 a) { return a > 0 ? (a < 1 ? a : 1.0f) : 0.0f; });
}

}  // namespace ptx

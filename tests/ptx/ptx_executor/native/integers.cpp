// Integers, bits and predicates.
#include <algorithm>

#include "lanes.h"

namespace ptx {

namespace {

template <class T>
void check_divisor(T divisor) {
  if (divisor == 0) throw Violation("a division by zero");
}

template <class T>
using Wide =
    std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, s32, u32>,
                       std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, s64, u64>,
                                          std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;
template <class T>
using Unsigned = std::make_unsigned_t<T>;

// Sums wrap: they are computed without sign.
template <class T>
T wrap(Unsigned<T> value) {
  return static_cast<T>(value);
}

// `b` with the last `length` bits of `a` in the place of those from `start` on; both counts are bytes.
u32 insert_bits(u32 a, u32 b, u32 start, u32 length) {
  const u64 ones = length < 32 ? (u64(1) << length) - 1 : 0xffffffffu;
  const u32 mask = start < 32 ? u32(ones << start) : 0;
  return (b & ~mask) | (start < 32 ? u32(u64(a) << start) & mask : 0);
}

// `length` bits of `a` from `start` on, extended by the last of them if T has a sign; both counts are bytes.
template <class T>
T extract_bits(T a, u32 start, u32 length) {
  constexpr u32 bits = 8 * sizeof(T);
  start &= 0xff;
  length &= 0xff;
  if (length == 0) return 0;
  const T shifted = start < bits ? T(Unsigned<T>(a) >> start) : T(0);
  const u32 last = std::min(start + length, bits) - 1;
  const bool fill = std::is_signed_v<T> && (Unsigned<T>(a) >> last & 1);
  const u32 found = start < bits ? std::min(length, bits - start) : 0;
  const Unsigned<T> inside = found < bits ? (Unsigned<T>(1) << found) - 1 : ~Unsigned<T>(0);
  return T((Unsigned<T>(shifted) & inside) | (fill ? ~inside : 0));
}

template <class T>
void add_arithmetic(Opcodes& table, const std::string& type) {
  using U = Unsigned<T>;
  table["add." + type] = lanes<T(T, T)>([](T a, T b) { return wrap<T>(U(U(a) + U(b))); });
  table["sub." + type] = lanes<T(T, T)>([](T a, T b) { return wrap<T>(U(U(a) - U(b))); });
  table["mul.lo." + type] = lanes<T(T, T)>([](T a, T b) { return T(Wide<T>(a) * Wide<T>(b)); });
  table["mul.hi." + type] = lanes<T(T, T)>([](T a, T b) { return T((Wide<T>(a) * Wide<T>(b)) >> (8 * sizeof(T))); });
  table["mad.lo." + type] =
      lanes<T(T, T, T)>([](T a, T b, T c) { return wrap<T>(U(U(Wide<T>(a) * Wide<T>(b)) + U(c))); });
  table["min." + type] = lanes<T(T, T)>([](T a, T b) { return std::min(a, b); });
  table["max." + type] = lanes<T(T, T)>([](T a, T b) { return std::max(a, b); });
  table["div." + type] = lanes<T(T, T)>([](T a, T b) {
    check_divisor(b);
    return b == T(-1) && std::is_signed_v<T> ? wrap<T>(U(0) - U(a)) : T(a / b);
  });
  table["rem." + type] = lanes<T(T, T)>([](T a, T b) {
    check_divisor(b);
    return b == T(-1) && std::is_signed_v<T> ? T(0) : T(a % b);
  });
  table["shr." + type] = lanes<T(T, u32)>([](T a, u32 by) {
    constexpr u32 bits = 8 * sizeof(T);
    return by < bits ? T(a >> by) : std::is_signed_v<T> && a < 0 ? T(-1) : T(0);
  });
  if constexpr (sizeof(T) >= 4) {
    table["bfe." + type] =
        lanes<T(T, u32, u32)>([](T a, u32 start, u32 length) { return extract_bits(a, start, length); });
  }
  if constexpr (sizeof(T) <= 4) {
    table["mul.wide." + type] = lanes<Wide<T>(T, T)>([](T a, T b) { return Wide<T>(Wide<T>(a) * Wide<T>(b)); });
    table["mad.wide." + type] = lanes<Wide<T>(T, T, Wide<T>)>([](T a, T b, Wide<T> c) {
      return wrap<Wide<T>>(Unsigned<Wide<T>>(Wide<T>(a) * Wide<T>(b)) + Unsigned<Wide<T>>(c));
    });
  }
  if constexpr (std::is_signed_v<T>) {
    table["neg." + type] = lanes<T(T)>([](T a) { return wrap<T>(U(U(0) - U(a))); });
    table["abs." + type] = lanes<T(T)>([](T a) { return a < 0 ? wrap<T>(U(U(0) - U(a))) : a; });
  }
}

template <class T>
void add_integer_comparisons(Opcodes& table, const std::string& type) {
  table["setp.eq." + type] = lanes<Predicate(T, T)>([](T a, T b) { return a == b; });
  table["setp.ne." + type] = lanes<Predicate(T, T)>([](T a, T b) { return a != b; });
  for (const char* name : {"lt", "lo"}) {
    table["setp." + std::string(name) + "." + type] = lanes<Predicate(T, T)>([](T a, T b) { return a < b; });
  }
  table["setp.le." + type] = lanes<Predicate(T, T)>([](T a, T b) { return a <= b; });
  table["setp.gt." + type] = lanes<Predicate(T, T)>([](T a, T b) { return a > b; });
  table["setp.ge." + type] = lanes<Predicate(T, T)>([](T a, T b) { return a >= b; });
}

template <class T>
void add_bits(Opcodes& table, const std::string& type) {
  table["and." + type] = lanes<T(T, T)>([](T a, T b) { return T(a & b); });
  table["or." + type] = lanes<T(T, T)>([](T a, T b) { return T(a | b); });
  table["xor." + type] = lanes<T(T, T)>([](T a, T b) { return T(a ^ b); });
  table["not." + type] = lanes<T(T)>([](T a) { return T(~a); });
  table["shl." + type] = lanes<T(T, u32)>([](T a, u32 by) { return by < 8 * sizeof(T) ? T(a << by) : T(0); });
  table["shr." + type] = lanes<T(T, u32)>([](T a, u32 by) { return by < 8 * sizeof(T) ? T(a >> by) : T(0); });
}

// Defined where the value that is chosen is, and the predicate.
template <class T>
void select(Warp& warp, const Instruction& in, uint32_t mask) {
  const int32_t *a = &in.operands[1], *b = &in.operands[2], *p = &in.operands[3];
  const uint32_t first = warp.predicate(*p);
  if (warp.any_undefined) {
    warp.define(in.operands[0], mask,
                (warp.undefined(*a) & first) | (warp.undefined(*b) & ~first) | warp.undefined(*p));
  }
  for_each_lane(mask,
                [&](int lane) { warp.at<T>(in.operands[0])[lane] = warp.at<T>(first >> lane & 1 ? *a : *b)[lane]; });
}

// Whatever the type, bits are moved.
template <class T>
void add_moves(Opcodes& table, const std::string& type) {
  table["mov." + type] = lanes<T(T)>([](T a) { return a; });
  table["selp." + type] = {select<T>, {sizeof(T), sizeof(T), sizeof(T), 0}};
}

u32 permute_bytes(u32 a, u32 b, u32 selector) {
  const u64 bytes = u64(b) << 32 | a;
  u32 result = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 select = selector >> (4 * i);
    u32 byte = u32(bytes >> (select % 8 * 8)) & 0xff;
    if (select & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

// d = {a, b, ...} and {a, b, ...} = d.
template <class Whole, class Part>
void add_packing(Opcodes& table, const std::string& type) {
  constexpr int kParts = sizeof(Whole) / sizeof(Part);
  const std::vector<int8_t> parts(kParts, sizeof(Part));
  std::vector<int8_t> pack{sizeof(Whole)}, unpack = parts;
  pack.insert(pack.end(), parts.begin(), parts.end());
  unpack.push_back(sizeof(Whole));
  const auto run_pack = [](Warp& warp, const Instruction& in, uint32_t mask) {
    for_each_lane(mask, [&](int lane) {
      Part values[kParts];
      for (int i = 0; i < kParts; ++i) values[i] = warp.at<Part>(in.operands[1 + i])[lane];
      std::memcpy(&warp.at<Whole>(in.operands[0])[lane], values, sizeof(Whole));
    });
    if (!warp.any_undefined) return;
    uint32_t undefined = 0;
    for (int i = 0; i < kParts; ++i) undefined |= warp.undefined(in.operands[1 + i]);
    warp.define(in.operands[0], mask, undefined);
  };
  const auto run_unpack = [](Warp& warp, const Instruction& in, uint32_t mask) {
    for_each_lane(mask, [&](int lane) {
      Part values[kParts];
      std::memcpy(values, &warp.at<Whole>(in.operands[kParts])[lane], sizeof(Whole));
      for (int i = 0; i < kParts; ++i) warp.at<Part>(in.operands[i])[lane] = values[i];
    });
    if (!warp.any_undefined) return;
    const uint32_t undefined = warp.undefined(in.operands[kParts]);
    for (int i = 0; i < kParts; ++i) warp.define(in.operands[i], mask, undefined);
  };
  table["mov." + type + ".pack" + std::to_string(kParts)] = {run_pack, pack};
  table["mov." + type + ".unpack" + std::to_string(kParts)] = {run_unpack, unpack};
}

// Two words, b above a, shifted as one of 64 bits; of a shift to the left the upper word remains, else the lower.
void add_funnel_shifts(Opcodes& table) {
  table["shf.l.wrap.b32"] =
      lanes<u32(u32, u32, u32)>([](u32 a, u32 b, u32 by) { return u32((u64(b) << 32 | a) << (by & 31) >> 32); });
  table["shf.r.wrap.b32"] =
      lanes<u32(u32, u32, u32)>([](u32 a, u32 b, u32 by) { return u32((u64(b) << 32 | a) >> (by & 31)); });
}

void add_predicates(Opcodes& table) {
  table["and.pred"] = lanes<Predicate(Predicate, Predicate)>([](bool a, bool b) { return a && b; });
  table["or.pred"] = lanes<Predicate(Predicate, Predicate)>([](bool a, bool b) { return a || b; });
  table["xor.pred"] = lanes<Predicate(Predicate, Predicate)>([](bool a, bool b) { return a != b; });
  table["not.pred"] = lanes<Predicate(Predicate)>([](bool a) { return !a; });
  table["mov.pred"] = lanes<Predicate(Predicate)>([](bool a) { return a; });
}

}  // namespace

void add_integers(Opcodes& table) {
  for_each_type(
      [&](auto type) {
        using T = typename decltype(type)::Type;
        add_arithmetic<T>(table, type.name);
        add_integer_comparisons<T>(table, type.name);
        add_moves<T>(table, type.name);
      },
      Named<s16>{"s16"}, Named<s32>{"s32"}, Named<s64>{"s64"}, Named<u16>{"u16"}, Named<u32>{"u32"}, Named<u64>{"u64"});
  for_each_type(
      [&](auto type) {
        using T = typename decltype(type)::Type;
        add_bits<T>(table, type.name);
        add_moves<T>(table, type.name);
        table["setp.eq." + std::string(type.name)] = lanes<Predicate(T, T)>([](T a, T b) { return a == b; });
        table["setp.ne." + std::string(type.name)] = lanes<Predicate(T, T)>([](T a, T b) { return a != b; });
      },
      Named<u16>{"b16"}, Named<u32>{"b32"}, Named<u64>{"b64"});
  for_each_type([&](auto type) { add_moves<typename decltype(type)::Type>(table, type.name); }, Named<u32>{"f32"},
                Named<u64>{"f64"});
  table["bfi.b32"] = lanes<u32(u32, u32, u32, u32)>(
      [](u32 a, u32 b, u32 start, u32 length) { return insert_bits(a, b, start & 0xffu, length & 0xffu); });
  table["prmt.b32"] = lanes<u32(u32, u32, u32)>([](u32 a, u32 b, u32 s) { return permute_bytes(a, b, s); });
  add_packing<u32, u16>(table, "b32");
  add_packing<u64, u32>(table, "b64");
  add_packing<u64, u16>(table, "b64");
  add_predicates(table);
  add_funnel_shifts(table);
  // Global addresses are generic ones.
  table["cvta.to.global.u64"] = lanes<u64(u64)>([](u64 a) { return a; });
}

}  // namespace ptx

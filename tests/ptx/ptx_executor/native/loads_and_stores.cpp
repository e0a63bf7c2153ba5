// ld and st of every space, and ldmatrix.
#include <map>
#include <sstream>

#include "warp.h"

namespace ptx {

namespace {

Space space_of(const Access& access) { return access.space == Space::kGeneric ? Space::kGlobal : access.space; }

Found readable(Warp& warp, const Access& access, uint64_t address, int bytes, int lane) {
  Block& block = *warp.block;
  switch (space_of(access)) {
    case Space::kShared: return block.shared.read(address, bytes, warp.stamp(lane), block.epochs);
    case Space::kParameter:
      if (address + static_cast<uint64_t>(bytes) > static_cast<uint64_t>(block.parameter_bytes)) {
        throw Violation("a read beyond the parameters", lane);
      }
      return {block.parameters + address, true};
    default:
      require_waited(warp, lane);
      return block.memory->read(address, bytes, access.read_only, warp.stamp(lane), block.epochs);
  }
}

// Shared memory remembers that it was given undefined values; global memory must not be given any.
std::byte* writable(Warp& warp, const Access& access, uint64_t address, int bytes, int lane, bool defined) {
  Block& block = *warp.block;
  Stamp stamp = warp.stamp(lane);
  if (space_of(access) == Space::kShared) {
    stamp.undefined = !defined;
    return block.shared.write(address, bytes, stamp, block.epochs);
  }
  require_waited(warp, lane);
  if (!defined) throw Violation("a result computed from what nothing has written", lane);
  return block.memory->write(address, bytes, stamp, block.epochs);
}

void count(Warp& warp, const Access& access, const uint64_t* addresses, uint32_t mask) {
  const int bytes = access.bytes * access.elements;
  if (access.space == Space::kParameter) return;
  if (space_of(access) == Space::kShared) {
    count_wavefronts(*warp.traffic, addresses, mask, bytes);
  } else {
    warp.traffic->sectors += static_cast<uint64_t>(sectors(addresses, mask));
  }
  warp.traffic->bytes += static_cast<uint64_t>(bytes * __builtin_popcount(mask));
}

// A value of `bytes` in a register of `width`, extended by zeros or by its sign.
void extend(const std::byte* from, int bytes, bool sign, std::byte* to, int width) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
  const bool negative = sign && (std::to_integer<int>(from[bytes - 1]) & 0x80);
  std::memset(to + bytes, negative ? 0xff : 0, static_cast<size_t>(width - bytes));
}

void load(Warp& warp, const Instruction& in, uint32_t mask) {
  const Access& access = in.access;
  const int bytes = access.bytes * access.elements;
  uint64_t addresses[kLanes];
  uint32_t undefined = 0;
  for_each_lane(mask, [&](int lane) {
    addresses[lane] = address_of(warp, in.addresses[0], lane);
    const auto [from, defined] = readable(warp, access, addresses[lane], bytes, lane);
    undefined |= uint32_t{!defined} << lane;
    for (int i = 0; i < access.elements; ++i) {
      extend(from + i * access.bytes, access.bytes, access.sign, warp.frame + in.operands[i] + lane * in.width,
             in.width);
    }
  });
  warp.any_undefined = warp.any_undefined || undefined;
  if (warp.any_undefined) {
    for (int i = 0; i < access.elements; ++i) warp.define(in.operands[i], mask, undefined);
  }
  count(warp, access, addresses, mask);
}

// Whether an earlier lane stores the same value to the same place: whichever the hardware takes, it is right.
bool is_repeated(const Warp& warp, const Instruction& in, const uint64_t* addresses, uint32_t mask, int lane) {
  for (int other = 0; other < lane; ++other) {
    if (!(mask >> other & 1) || addresses[other] != addresses[lane]) continue;
    bool same = true;
    for (int i = 0; i < in.access.elements; ++i) {
      const std::byte* values = warp.frame + in.operands[1 + i];
      same &= std::memcmp(values + other * in.width, values + lane * in.width, in.access.bytes) == 0;
    }
    return same;
  }
  return false;
}

void store(Warp& warp, const Instruction& in, uint32_t mask) {
  const Access& access = in.access;
  const int bytes = access.bytes * access.elements;
  uint64_t addresses[kLanes];
  uint32_t undefined = 0;
  if (warp.any_undefined) {
    for (int i = 0; i < access.elements; ++i) undefined |= warp.undefined(in.operands[1 + i]);
  }
  for_each_lane(mask, [&](int lane) {
    addresses[lane] = address_of(warp, in.addresses[0], lane);
    if (is_repeated(warp, in, addresses, mask, lane)) return;
    std::byte* to = writable(warp, access, addresses[lane], bytes, lane, !(undefined >> lane & 1));
    for (int i = 0; i < access.elements; ++i) {
      std::memcpy(to + i * access.bytes, warp.frame + in.operands[1 + i] + lane * in.width, access.bytes);
    }
  });
  count(warp, access, addresses, mask);
}

const std::map<std::string, Space> kSpaces{
    {"", Space::kGeneric}, {".global", Space::kGlobal}, {".shared", Space::kShared}, {".param", Space::kParameter}};
const std::map<std::string, int> kTypes{{"b8", 1},  {"u8", 1},  {"s8", 1},  {"b16", 2}, {"u16", 2},
                                        {"s16", 2}, {"b32", 4}, {"u32", 4}, {"s32", 4}, {"f32", 4},
                                        {"b64", 8}, {"u64", 8}, {"s64", 8}, {"f64", 8}};

void add_accesses(Opcodes& table, const std::string& space, int elements, const std::string& type) {
  Access access{kSpaces.at(space), false, type[0] == 's', static_cast<uint8_t>(kTypes.at(type)),
                static_cast<uint8_t>(elements)};
  if (access.bytes * elements > 16) return;
  const std::string vector = elements == 1 ? "" : ".v" + std::to_string(elements);
  std::vector<int8_t> values(static_cast<size_t>(elements), kAnyWidth);
  std::vector<int8_t> loaded = values, stored{kAddress};
  loaded.push_back(kAddress);
  stored.insert(stored.end(), values.begin(), values.end());
  table["ld" + space + vector + "." + type] = {load, loaded, Kind::kOrdinary, access};
  if (access.space != Space::kParameter) {
    table["st" + space + vector + "." + type] = {store, stored, Kind::kOrdinary, access};
  }
  if (access.space == Space::kGlobal) {
    access.read_only = true;
    table["ld.global.nc" + vector + "." + type] = {load, loaded, Kind::kOrdinary, access};
  }
}

// Matrices of 8 rows of 16 bytes. Lane l holds two values of row l / 4 (transposed: of column l / 4).
template <int kMatrices, bool kTransposed>
void load_matrices(Warp& warp, const Instruction& in, uint32_t mask) {
  require_full_warp(warp, mask, kAllLanes);
  uint64_t rows[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) rows[lane] = address_of(warp, in.addresses[0], lane);
  for (int matrix = 0; matrix < kMatrices; ++matrix) {
    for (int row = 0; row < 8; ++row) {
      if (rows[8 * matrix + row] % 16) throw Violation("a misaligned row of ldmatrix", 8 * matrix + row);
    }
    count_wavefronts(*warp.traffic, rows + 8 * matrix, 0xff, 16);
    uint32_t undefined = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      uint16_t values[2];
      for (int i = 0; i < 2; ++i) {
        const int row = kTransposed ? lane % 4 * 2 + i : lane / 4;
        const int column = kTransposed ? lane / 4 : lane % 4 * 2 + i;
        const uint64_t address = rows[8 * matrix + row] + 2 * static_cast<uint64_t>(column);
        const Found found = warp.block->shared.read(address, 2, warp.stamp(lane), warp.block->epochs);
        std::memcpy(&values[i], found.data, 2);
        undefined |= uint32_t{!found.defined} << lane;
      }
      std::memcpy(&warp.at<uint32_t>(in.operands[matrix])[lane], values, 4);
    }
    warp.any_undefined = warp.any_undefined || undefined;
    warp.define(in.operands[matrix], mask, undefined);
  }
  warp.traffic->bytes += 128 * kMatrices;
}

template <int kMatrices>
void add_load_matrices(Opcodes& table) {
  std::vector<int8_t> widths(kMatrices, 4);
  widths.push_back(kAddress);
  const std::string name = "ldmatrix.sync.aligned.m8n8.x" + std::to_string(kMatrices);
  table[name + ".shared.b16"] = {load_matrices<kMatrices, false>, widths};
  table[name + ".trans.shared.b16"] = {load_matrices<kMatrices, true>, widths};
}

}  // namespace

void add_loads_and_stores(Opcodes& table) {
  for (const auto& [space, ignored] : kSpaces) {
    for (const auto& [type, bytes] : kTypes) {
      for (const int elements : {1, 2, 4}) add_accesses(table, space, elements, type);
    }
  }
  add_load_matrices<1>(table);
  add_load_matrices<2>(table);
  add_load_matrices<4>(table);
}

}  // namespace ptx

// A warp under execution, and the block that it belongs to.
#pragma once

#include <cstddef>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "instruction.h"
#include "memory.h"
#include "traffic.h"

namespace ptx {

// A rule was broken; the machine adds where. `lane`: -1 if it is the warp's.
struct Violation : std::runtime_error {
  Violation(const std::string& what, int lane = -1) : std::runtime_error(what), lane(lane) {}
  int lane;
};

// What the warps of a block share.
struct Block {
  const std::byte* parameters;
  int64_t parameter_bytes;
  Memory* memory;
  SharedMemory shared;
  Epochs epochs;
};

// Lanes that go through the same instructions, until they come to where they meet the others again.
struct Path {
  int32_t pc;
  uint32_t mask;
  int32_t reconvergence;
};

// A cp.async that has been issued and not waited for.
struct AsyncCopy {
  int lane;
  int64_t group;
  uint32_t to;
  std::byte data[16];
  int bytes;
};

struct Warp {
  Block* block;
  int index;
  std::byte* frame;         // registers and immediates
  uint32_t live;            // lanes that have not left
  std::vector<Path> paths;  // the last one runs
  uint16_t part = 0;        // of the time between two barriers: how often the warp has synchronised within it
  bool at_barrier = false;
  uint32_t waited = 0;  // lanes that know that the launches before this one have ended
  std::vector<AsyncCopy> copies;
  int64_t open_group[kLanes] = {};  // of async copies
  std::vector<uint32_t> undefined_lanes;
  bool any_undefined = false;  // since the block began; until then all lanes are defined, and nobody looks
  Traffic* traffic;            // of the instruction that runs

  template <class T>
  T* at(int32_t operand) {
    return reinterpret_cast<T*>(frame + operand);
  }
  uint32_t& predicate(int32_t operand) { return *at<uint32_t>(operand); }
  // The lanes in which a register holds what was computed from memory that nothing had written.
  uint32_t& undefined(int32_t operand) { return undefined_lanes[static_cast<size_t>(operand) / kFrameUnit]; }
  void define(int32_t operand, uint32_t mask, uint32_t undefined_now) {
    uint32_t& lanes = undefined(operand);
    lanes = (lanes & ~mask) | (undefined_now & mask);
  }
  Stamp stamp(int lane) const {
    Stamp stamp{block->epochs.now, part, static_cast<uint8_t>(index)};
    stamp.lane = static_cast<uint8_t>(lane);
    return stamp;
  }
};

template <class Function>
void for_each_lane(uint32_t mask, const Function& function) {
  for (; mask; mask &= mask - 1) function(__builtin_ctz(mask));
}

inline uint64_t address_of(Warp& warp, const Address& address, int lane) {
  if (warp.any_undefined && address.width && warp.undefined(address.base) >> lane & 1) {
    throw Violation("an address computed from what nothing has written", lane);
  }
  const uint64_t base = address.width == 8   ? warp.at<uint64_t>(address.base)[lane]
                        : address.width == 4 ? warp.at<uint32_t>(address.base)[lane]
                                             : 0;
  return base + static_cast<uint64_t>(address.offset);
}

// What an earlier launch writes may be there only after griddepcontrol.wait; no access of global memory comes before it.
inline void require_waited(const Warp& warp, int lane) {
  if (!(warp.waited >> lane & 1)) throw Violation("an access of global memory before griddepcontrol.wait", lane);
}

// A collective that every lane must take part in, as its member mask says.
inline void require_full_warp(const Warp&, uint32_t mask, uint32_t members) {
  if (mask != kAllLanes) throw Violation("a collective of part of a warp", __builtin_ctz(~mask));
  if (members != kAllLanes) throw Violation("a collective whose member mask is not the whole warp");
}

}  // namespace ptx

// cp.async: what it copies may be read only after its thread has waited for it.
#include <algorithm>

#include "warp.h"

namespace ptx {

namespace {

// Operands: to, from, bytes to write, and perhaps bytes to read, the others of which become zeros.
template <bool kSourceSize>
void copy(Warp& warp, const Instruction& in, uint32_t mask) {
  Block& block = *warp.block;
  const auto bytes = static_cast<int>(*warp.at<uint32_t>(in.operands[2]));
  uint64_t to[kLanes], from[kLanes];
  uint32_t reading = 0;
  for_each_lane(mask, [&](int lane) {
    const auto read = kSourceSize ? static_cast<int>(warp.at<uint32_t>(in.operands[3])[lane]) : bytes;
    if (read != 0 && read != bytes) throw Violation("a cp.async of part of its bytes", lane);
    to[lane] = address_of(warp, in.addresses[0], lane);
    from[lane] = address_of(warp, in.addresses[1], lane);
    AsyncCopy copy{lane, warp.open_group[lane], static_cast<uint32_t>(to[lane]), {}, bytes};
    if (read) {
      reading |= 1u << lane;
      require_waited(warp, lane);
      const Found found = block.memory->read(from[lane], read, false, warp.stamp(lane), block.epochs);
      if (!found.defined) throw Violation("a cp.async of what nothing has written", lane);
      std::memcpy(copy.data, found.data, static_cast<size_t>(read));
    }
    Stamp stamp = warp.stamp(lane);
    stamp.in_flight = true;
    block.shared.write(to[lane], bytes, stamp, block.epochs);
    warp.copies.push_back(copy);
  });
  count_wavefronts(*warp.traffic, to, mask, bytes);  // the zeros too
  warp.traffic->sectors += static_cast<uint64_t>(sectors(from, reading));
  warp.traffic->bytes += static_cast<uint64_t>(bytes * __builtin_popcount(reading));
}

void commit(Warp& warp, const Instruction&, uint32_t mask) {
  for_each_lane(mask, [&](int lane) { ++warp.open_group[lane]; });
}

// All copies arrive but those of the open group and of the last `pending` ones before it; or just all.
void arrive(Warp& warp, uint32_t mask, int64_t pending, bool uncommitted) {
  const auto arrives = [&](const AsyncCopy& copy) {
    if (!(mask >> copy.lane & 1)) return false;
    const int64_t open = warp.open_group[copy.lane];
    if (copy.group >= open - pending && !(uncommitted && pending == 0)) return false;
    std::memcpy(warp.block->shared.arrive(copy.to, copy.bytes, warp.stamp(copy.lane)), copy.data,
                static_cast<size_t>(copy.bytes));
    return true;
  };
  warp.copies.erase(std::remove_if(warp.copies.begin(), warp.copies.end(), arrives), warp.copies.end());
}

void wait_group(Warp& warp, const Instruction& in, uint32_t mask) {
  arrive(warp, mask, *warp.at<uint32_t>(in.operands[0]), false);
}
void wait_all(Warp& warp, const Instruction&, uint32_t mask) { arrive(warp, mask, 0, true); }

}  // namespace

void add_async_copies(Opcodes& table) {
  for (const char* name : {"cp.async.cg.shared.global", "cp.async.ca.shared.global"}) {
    table[name] = {copy<false>, {kAddress, kAddress, 4}};
    table[std::string(name) + ".zfill"] = {copy<true>, {kAddress, kAddress, 4, 4}};
  }
  table["cp.async.commit_group"] = {commit, {}};
  table["cp.async.wait_group"] = {wait_group, {4}};
  table["cp.async.wait_all"] = {wait_all, {}};
}

}  // namespace ptx

#include "memory.h"

#include <sys/mman.h>

#include <new>

#include "warp.h"

namespace ptx {

Stamps::Stamps(int64_t count) : bytes_(static_cast<size_t>(count > 0 ? count : 1) * sizeof(Stamp)) {
  void* pages = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<Stamp*>(pages);
}
Stamps::~Stamps() { munmap(data_, bytes_); }

namespace {

std::string named(const Stamp& stamp) {
  const std::string who = stamp.warp == kManyWarps ? "several warps" : "warp " + std::to_string(stamp.warp);
  return who + (stamp.lane == kManyLanes ? ", several lanes" : ", lane " + std::to_string(stamp.lane));
}

// Two accesses of a byte, one of them a write, without anything that orders them.
void check_race(const Stamp& before, const Stamp& now, const Epochs& epochs, const char* what) {
  if (before.epoch < epochs.launch) return;
  if (before.epoch < epochs.block) throw Violation(std::string(what) + " of another block", now.lane);
  if (before.epoch < now.epoch) return;
  if (before.warp == now.warp && (before.part < now.part || before.lane == now.lane)) return;
  const char* missing = before.warp == now.warp ? " without bar.warp.sync between" : " without a barrier between";
  throw Violation(std::string(what) + " of " + named(before) + missing, now.lane);
}

// What remains of reads by several: whoever writes next must be ordered after all of them.
void merge_read(Stamp& before, const Stamp& now, const Epochs& epochs) {
  if (before.epoch >= epochs.launch && before.epoch < epochs.block) {
    before.epoch = epochs.launch;
  } else if (before.epoch < now.epoch) {
    before = now;
  } else if (before.warp != now.warp) {
    before.warp = kManyWarps;
  } else if (before.part < now.part) {
    before = now;
  } else if (before.lane != now.lane) {
    before.lane = kManyLanes;
  }
}

void check_alignment(uint64_t address, int bytes, int lane) {
  if (address % static_cast<uint64_t>(bytes) != 0) {
    throw Violation("a misaligned access of " + std::to_string(bytes) + " bytes", lane);
  }
}

}  // namespace

bool Shadow::read(int64_t at, int bytes, const Stamp& by, const Epochs& epochs, uint32_t written_since) {
  bool defined = true;
  for (int64_t i = at; i < at + bytes; ++i) {
    const Stamp& write = writes_[i];
    if (write.epoch < written_since) {
      defined = false;
    } else if (write.epoch >= epochs.block) {
      if (write.in_flight) throw Violation("a read of what a cp.async that is not waited for writes", by.lane);
      defined = defined && !write.undefined;
    }
    check_race(write, by, epochs, "a read after a write");
    merge_read(reads_[i], by, epochs);
  }
  return defined;
}

void Shadow::read_constant(int64_t at, int bytes, const Stamp& by, const Epochs& epochs) {
  for (int64_t i = at; i < at + bytes; ++i) {
    if (writes_[i].epoch >= epochs.launch) {
      throw Violation("a read as constant of what the launch writes", by.lane);
    }
    reads_[i].epoch = epochs.launch;  // as if by other blocks: nobody may write any more
  }
}

void Shadow::write(int64_t at, int bytes, const Stamp& by, const Epochs& epochs) {
  for (int64_t i = at; i < at + bytes; ++i) {
    if (writes_[i].epoch >= epochs.block && writes_[i].in_flight) {
      throw Violation("a write to what a cp.async that is not waited for writes", by.lane);
    }
    check_race(writes_[i], by, epochs, "a write after a write");
    check_race(reads_[i], by, epochs, "a write after a read");
    writes_[i] = by;
  }
}

void Shadow::arrive(int64_t at, int bytes, const Stamp& by) {
  for (int64_t i = at; i < at + bytes; ++i) writes_[i] = by;
}

uint64_t Memory::allocate(Allocation allocation) {
  if (allocation.writable) allocation.shadow = std::make_unique<Shadow>(allocation.bytes);
  allocations_.push_back(std::move(allocation));
  return (allocations_.size() << kAllocationBits) + allocations_.back().skew;
}

Allocation& Memory::find(uint64_t address, int bytes, int lane, int64_t& at) {
  check_alignment(address, bytes, lane);
  const uint64_t index = address >> kAllocationBits;
  if (index == 0 || index > allocations_.size()) {
    throw Violation("an access of global memory outside of every allocation", lane);
  }
  Allocation& allocation = allocations_[index - 1];
  const uint64_t start = (index << kAllocationBits) + allocation.skew;
  at = static_cast<int64_t>(address - start);
  if (at < 0 || at + bytes > allocation.bytes) {
    throw Violation("an access of bytes " + std::to_string(at) + " to " + std::to_string(at + bytes) + " of " +
                        allocation.name + ", which has " + std::to_string(allocation.bytes),
                    lane);
  }
  if (!allocation.present.empty()) {
    for (int i = 0; i < bytes; ++i) {
      if (!allocation.present[static_cast<size_t>(at + i)]) {
        throw Violation("an access of what lies between the elements of " + allocation.name, lane);
      }
    }
  }
  return allocation;
}

Found Memory::read(uint64_t address, int bytes, bool read_only, const Stamp& by, const Epochs& epochs) {
  int64_t at = 0;
  Allocation& allocation = find(address, bytes, by.lane, at);
  if (!allocation.shadow) return {allocation.data + at, true};
  if (read_only) allocation.shadow->read_constant(at, bytes, by, epochs);
  return {allocation.data + at, allocation.shadow->read(at, bytes, by, epochs, allocation.initialised ? 0 : 1)};
}

std::byte* Memory::write(uint64_t address, int bytes, const Stamp& by, const Epochs& epochs) {
  int64_t at = 0;
  Allocation& allocation = find(address, bytes, by.lane, at);
  if (!allocation.shadow) throw Violation("a write to " + allocation.name + ", which is read-only", by.lane);
  allocation.shadow->write(at, bytes, by, epochs);
  return allocation.data + at;
}

void SharedMemory::check(uint64_t address, int bytes, int lane) const {
  if (address + static_cast<uint64_t>(bytes) > data_.size()) {
    throw Violation("an access of bytes " + std::to_string(static_cast<int64_t>(address)) + " to " +
                        std::to_string(static_cast<int64_t>(address) + bytes) + " of shared memory, which has " +
                        std::to_string(data_.size()),
                    lane);
  }
  check_alignment(address, bytes, lane);
}

// What earlier blocks did there does not count.
static Epochs of_block(const Epochs& epochs) { return {epochs.block, epochs.block, epochs.now}; }

Found SharedMemory::read(uint64_t address, int bytes, const Stamp& by, const Epochs& epochs) {
  check(address, bytes, by.lane);
  const auto at = static_cast<int64_t>(address);
  return {data_.data() + at, shadow_.read(at, bytes, by, of_block(epochs), epochs.block)};
}

std::byte* SharedMemory::write(uint64_t address, int bytes, const Stamp& by, const Epochs& epochs) {
  check(address, bytes, by.lane);
  shadow_.write(static_cast<int64_t>(address), bytes, by, of_block(epochs));
  return data_.data() + address;
}

std::byte* SharedMemory::arrive(uint64_t address, int bytes, const Stamp& by) {
  shadow_.arrive(static_cast<int64_t>(address), bytes, by);
  return data_.data() + address;
}

}  // namespace ptx

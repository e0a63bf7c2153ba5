// Memory that knows its bounds, what has been written, and who touched each byte last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace ptx {

// When and by whom a byte was touched. Epochs count block barriers over all blocks of all launches, so that
// one number orders them; parts count the synchronisations of a warp between two block barriers.
struct Stamp {
  uint32_t epoch = 0;  // 0: never
  uint16_t part = 0;
  uint8_t warp = 0;
  uint8_t lane : 6 = 0;
  uint8_t in_flight : 1 = 0;  // by a cp.async that has not been waited for
  uint8_t undefined : 1 = 0;  // what was written came from what nothing had written
};
inline constexpr uint8_t kManyWarps = 255, kManyLanes = 63;

struct Epochs {
  uint32_t launch = 0, block = 0, now = 0;  // first of the launch, first of the block, current
};

// Pages that are zero until they are touched.
class Stamps {
 public:
  explicit Stamps(int64_t count);
  ~Stamps();
  Stamps(const Stamps&) = delete;
  Stamps& operator=(const Stamps&) = delete;
  Stamp& operator[](int64_t i) { return data_[i]; }

 private:
  size_t bytes_;
  Stamp* data_;
};

// The last write and the last reads of every byte.
class Shadow {
 public:
  explicit Shadow(int64_t bytes) : writes_(bytes), reads_(bytes) {}
  // Each throws a Violation if the access races with an earlier one. A read returns whether every byte was
  // written, since `written_since` (0: whatever there is counts as written), with a defined value.
  bool read(int64_t at, int bytes, const Stamp& by, const Epochs& epochs, uint32_t written_since);
  // A read through the read-only path: nothing writes there during the launch.
  void read_constant(int64_t at, int bytes, const Stamp& by, const Epochs& epochs);
  void write(int64_t at, int bytes, const Stamp& by, const Epochs& epochs);
  // The bytes of an async copy have arrived.
  void arrive(int64_t at, int bytes, const Stamp& by);

 private:
  Stamps writes_, reads_;
};

// What a read finds.
struct Found {
  const std::byte* data;
  bool defined;
};

struct Allocation {
  std::string name;
  std::byte* data;
  int64_t bytes;
  uint64_t skew;  // bytes from where it would be aligned to where it begins
  bool writable, initialised;
  std::vector<uint8_t> present;    // a byte each; empty: all are
  std::unique_ptr<Shadow> shadow;  // if writable
};

// Global memory. Allocation i lies from (i + 1) << kAllocationBits on.
class Memory {
 public:
  static constexpr int kAllocationBits = 36;
  uint64_t allocate(Allocation allocation);
  Found read(uint64_t address, int bytes, bool read_only, const Stamp& by, const Epochs& epochs);
  std::byte* write(uint64_t address, int bytes, const Stamp& by, const Epochs& epochs);
  uint32_t epoch = 1;  // the last one that any launch used

 private:
  Allocation& find(uint64_t address, int bytes, int lane, int64_t& at);
  std::vector<Allocation> allocations_;
};

// Of a block; nothing has been written at its start.
class SharedMemory {
 public:
  explicit SharedMemory(int64_t bytes) : data_(static_cast<size_t>(bytes)), shadow_(bytes) {}
  Found read(uint64_t address, int bytes, const Stamp& by, const Epochs& epochs);
  std::byte* write(uint64_t address, int bytes, const Stamp& by, const Epochs& epochs);
  std::byte* arrive(uint64_t address, int bytes, const Stamp& by);

 private:
  void check(uint64_t address, int bytes, int lane) const;
  std::vector<std::byte> data_;
  Shadow shadow_;
};

}  // namespace ptx

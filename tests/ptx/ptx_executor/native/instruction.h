// Decoded instructions and the table of opcodes.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace ptx {

struct Warp;
struct Instruction;

inline constexpr int kLanes = 32;
inline constexpr uint32_t kAllLanes = ~0u;
inline constexpr int kMaxOperands = 16;
inline constexpr int kFrameUnit = 64;  // bytes: where a register may begin in a warp's frame

// Executes an instruction for the lanes of `mask`, which are not none.
using Handler = void (*)(Warp&, const Instruction&, uint32_t mask);

// What the machine itself executes, and everything else.
enum class Kind : uint8_t { kOrdinary, kBranch, kExit, kBlockBarrier };

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kParameter };

// What a load, a store or a copy moves, for each lane.
struct Access {
  Space space = Space::kGeneric;
  bool read_only = false;  // `.nc`: nothing writes there during the launch
  bool sign = false;       // a narrow value is extended by its sign
  uint8_t bytes = 0;       // of an element
  uint8_t elements = 1;
};

// What an operand must be: a register or immediate of so many bytes (0: a predicate), or one of these.
enum Width : int8_t { kAnyWidth = -1, kAddress = -2 };

struct Opcode {
  Handler run = nullptr;
  std::vector<int8_t> widths;
  Kind kind = Kind::kOrdinary;
  Access access{};
};

// A register of 4 or 8 bytes (0: none) and an offset.
struct Address {
  int32_t base = 0;
  uint8_t width = 0;
  int64_t offset = 0;
};

struct Instruction {
  Handler run = nullptr;
  Kind kind = Kind::kOrdinary;
  Access access{};
  bool negated = false;
  uint8_t width = 0;   // of the registers of kAnyWidth
  int32_t guard = -1;  // where the predicate lies in a frame
  int32_t target = -1, reconvergence = -1;
  int32_t operands[kMaxOperands] = {};  // where they lie in a frame
  Address addresses[2] = {};            // in the order of their operands
};

using Opcodes = std::unordered_map<std::string, Opcode>;

// Each file of opcodes adds its own.
void add_integers(Opcodes&);
void add_floats(Opcodes&);
void add_conversions(Opcodes&);
void add_loads_and_stores(Opcodes&);
void add_async_copies(Opcodes&);
void add_collectives(Opcodes&);

}  // namespace ptx

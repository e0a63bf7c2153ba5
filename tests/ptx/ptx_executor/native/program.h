// An entry ready to be executed.
#pragma once

#include <array>
#include <string>
#include <tuple>
#include <vector>

#include "instruction.h"

namespace ptx {

// Operands as ptx_executor/body.py has them.
enum OperandKind { kRegister, kImmediate, kAddressOperand, kSink };
struct DecodedOperand {
  int kind;
  uint64_t value;  // a register's index, an immediate's bits, an address's register (all ones: none)
  int64_t offset;
};
struct DecodedInstruction {
  std::string opcode;
  std::vector<DecodedOperand> operands;
  int guard;
  bool negated;
  int target, reconvergence;
};

// What is unknown, and in which instruction.
struct UnknownInstruction {
  std::string what;
  int at;
};

// Registers of a warp lie in one frame, the 32 lanes of each side by side; immediates are registers that
// nothing writes.
class Program {
 public:
  // Throws UnknownInstruction.
  Program(const std::vector<int>& widths, const std::vector<DecodedInstruction>& instructions);
  const std::vector<Instruction>& code() const { return code_; }
  int32_t register_at(int index) const { return registers_[static_cast<size_t>(index)]; }
  int64_t frame_bytes() const { return frame_bytes_; }
  // Registers start with a pattern that is no sensible value.
  void initialise(std::byte* frame) const;

 private:
  struct Immediate {
    int32_t at;
    int width;
    uint64_t bits;
  };
  int32_t reserve(int width);
  int32_t immediate(uint64_t bits, int width);
  Instruction link(const DecodedInstruction& decoded);
  void link_operand(const DecodedOperand& operand, int width, Instruction& instruction, int index, int& addresses);

  std::vector<int> widths_;
  std::vector<int32_t> registers_;
  std::vector<Immediate> immediates_;
  std::vector<Instruction> code_;
  int64_t frame_bytes_ = 0;
  int32_t sink_ = 0;
};

}  // namespace ptx

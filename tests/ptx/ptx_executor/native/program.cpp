#include "program.h"

#include <algorithm>
#include <cstring>

namespace ptx {

namespace {

const Opcodes& opcodes() {
  static const Opcodes all = [] {
    Opcodes table;
    table["bra"] = {nullptr, {}, Kind::kBranch};
    table["ret"] = table["exit"] = {nullptr, {}, Kind::kExit};
    table["bar.sync"] = {nullptr, {4}, Kind::kBlockBarrier};
    add_integers(table);
    add_floats(table);
    add_conversions(table);
    add_loads_and_stores(table);
    add_async_copies(table);
    add_collectives(table);
    return table;
  }();
  return all;
}

template <class T>
void fill(std::byte* to, uint64_t bits) {
  std::fill_n(reinterpret_cast<T*>(to), kLanes, static_cast<T>(bits));
}

}  // namespace

Program::Program(const std::vector<int>& widths, const std::vector<DecodedInstruction>& instructions)
    : widths_(widths) {
  for (const int width : widths) registers_.push_back(reserve(width));
  sink_ = reserve(8);
  for (size_t i = 0; i < instructions.size(); ++i) {
    try {
      code_.push_back(link(instructions[i]));
    } catch (const std::string& what) {
      throw UnknownInstruction{what, static_cast<int>(i)};
    }
  }
}

int32_t Program::reserve(int width) {
  const int64_t at = frame_bytes_;
  frame_bytes_ += std::max(width * kLanes, kFrameUnit);
  return static_cast<int32_t>(at);
}

int32_t Program::immediate(uint64_t bits, int width) {
  if (width == 0) bits = bits ? ~uint64_t{0} : 0;
  for (const Immediate& known : immediates_) {
    if (known.width == width && known.bits == bits) return known.at;
  }
  immediates_.push_back({reserve(width), width, bits});
  return immediates_.back().at;
}

void Program::link_operand(const DecodedOperand& operand, int width, Instruction& instruction, int index,
                           int& addresses) {
  int32_t& to = instruction.operands[index];
  if ((operand.kind == kAddressOperand) != (width == kAddress)) throw std::string("an operand of the wrong kind");
  if (operand.kind == kSink) {
    to = sink_;
  } else if (operand.kind == kImmediate) {
    if (width == kAnyWidth) width = instruction.width = instruction.access.bytes;
    to = immediate(operand.value, width);
  } else if (operand.kind == kRegister) {
    const int found = widths_[operand.value];
    if (width == kAnyWidth && found >= instruction.access.bytes) {
      instruction.width = static_cast<uint8_t>(found);
    } else if (found != width) {
      throw std::string("an operand of ") + std::to_string(8 * found) + " bits";
    }
    to = registers_[operand.value];
  } else {
    const bool has_register = operand.value != ~uint64_t{0};
    instruction.addresses[addresses++] = {has_register ? registers_[operand.value] : 0,
                                          static_cast<uint8_t>(has_register ? widths_[operand.value] : 0),
                                          operand.offset};
  }
}

Instruction Program::link(const DecodedInstruction& decoded) {
  auto found = opcodes().find(decoded.opcode);
  if (found == opcodes().end() && decoded.operands.size() == 2 && decoded.operands[1].kind == kRegister) {
    const int bits = 8 * widths_[decoded.operands[1].value];  // a conversion's variant by its source
    found = opcodes().find(decoded.opcode + "/" + std::to_string(bits));
  }
  if (found == opcodes().end()) throw "an unknown instruction " + decoded.opcode;
  const Opcode& opcode = found->second;
  if (opcode.widths.size() != decoded.operands.size()) {
    throw decoded.opcode + " with " + std::to_string(decoded.operands.size()) + " operands";
  }
  Instruction instruction;
  instruction.run = opcode.run;
  instruction.kind = opcode.kind;
  instruction.access = opcode.access;
  instruction.negated = decoded.negated;
  instruction.guard = decoded.guard < 0 ? -1 : registers_[static_cast<size_t>(decoded.guard)];
  instruction.target = decoded.target;
  instruction.reconvergence = decoded.reconvergence;
  int addresses = 0;
  for (size_t i = 0; i < opcode.widths.size(); ++i) {
    link_operand(decoded.operands[i], opcode.widths[i], instruction, static_cast<int>(i), addresses);
  }
  if (opcode.kind == Kind::kBlockBarrier && decoded.operands[0].value != 0) {
    throw std::string("a barrier other than 0");
  }
  return instruction;
}

void Program::initialise(std::byte* frame) const {
  std::memset(frame, 0xcd, static_cast<size_t>(frame_bytes_));
  for (const Immediate& immediate : immediates_) {
    std::byte* to = frame + immediate.at;
    switch (immediate.width) {
      case 0: std::memcpy(to, &immediate.bits, 4); break;
      case 1: fill<uint8_t>(to, immediate.bits); break;
      case 2: fill<uint16_t>(to, immediate.bits); break;
      case 4: fill<uint32_t>(to, immediate.bits); break;
      default: fill<uint64_t>(to, immediate.bits);
    }
  }
}

}  // namespace ptx

// Runs the blocks of a launch, one after the other, and the warps of each in turns.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "memory.h"
#include "program.h"
#include "traffic.h"
#include "warp.h"

namespace ptx {

struct Launch {
  std::array<uint32_t, 3> grid, block;
  std::string parameters;
  int64_t shared_bytes;
  uint32_t order;                    // a seed; 0: ascending
  std::vector<int64_t> only_blocks;  // empty: all
  bool follows;                      // another launch, which may still run until griddepcontrol.wait
  // Registers that hold special values: %tid.x and so on.
  std::vector<std::pair<std::string, int>> special;
};

struct Failure {
  std::string what;
  int instruction = -1;
  std::array<uint32_t, 3> block{};
  int warp = -1, lane = -1;
};

struct Outcome {
  std::optional<Failure> failure;
  std::vector<Traffic> traffic;  // of each instruction
  int64_t blocks = 0;
};

class Machine {
 public:
  Machine(const Program& program, Memory& memory, const Launch& launch);
  Outcome run();

 private:
  void run_block(int64_t index);
  void start_warps(const std::array<uint32_t, 3>& position);
  void fill_special(Warp& warp, const std::array<uint32_t, 3>& position);
  void run_warp(Warp& warp, int64_t instructions);
  bool step(Warp& warp);
  void branch(Warp& warp, const Instruction& in, uint32_t taken);
  void leave(Warp& warp, uint32_t mask);
  void arrive(Warp& warp, uint32_t mask);
  void pass_barrier();
  Warp* next_warp();
  uint32_t random() { return static_cast<uint32_t>(generator_()); }

  const Program& program_;
  Memory& memory_;
  const Launch& launch_;
  std::mt19937 generator_;
  std::vector<std::byte> frames_;
  std::vector<Warp> warps_;
  Block block_;
  Warp* running_ = nullptr;
  int running_instruction_ = -1;
  int64_t budget_ = 0;  // of instructions, until a block is taken not to end
  Outcome outcome_;
};

}  // namespace ptx

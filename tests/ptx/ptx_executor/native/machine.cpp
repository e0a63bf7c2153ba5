#include "machine.h"

#include <algorithm>
#include <numeric>

namespace ptx {

namespace {

constexpr int64_t kMostInstructions = int64_t{1} << 25;  // of a block's warps together

std::array<uint32_t, 3> position_of(int64_t index, const std::array<uint32_t, 3>& sizes) {
  const auto x = static_cast<uint32_t>(index % sizes[0]);
  const auto y = static_cast<uint32_t>(index / sizes[0] % sizes[1]);
  return {x, y, static_cast<uint32_t>(index / sizes[0] / sizes[1])};
}

int64_t count_of(const std::array<uint32_t, 3>& sizes) { return static_cast<int64_t>(sizes[0]) * sizes[1] * sizes[2]; }

}  // namespace

Machine::Machine(const Program& program, Memory& memory, const Launch& launch)
    : program_(program),
      memory_(memory),
      launch_(launch),
      generator_(launch.order),
      block_{reinterpret_cast<const std::byte*>(launch.parameters.data()),
             static_cast<int64_t>(launch.parameters.size()),
             &memory,
             SharedMemory(launch.shared_bytes),
             {}} {
  const int64_t threads = count_of(launch.block);
  warps_.resize(static_cast<size_t>((threads + kLanes - 1) / kLanes));
  frames_.resize(warps_.size() * static_cast<size_t>(program.frame_bytes()) + 64);
  outcome_.traffic.resize(program.code().size());
  void* start = frames_.data();
  size_t space = frames_.size();
  std::align(64, frames_.size() - 64, start, space);
  for (size_t i = 0; i < warps_.size(); ++i) {
    warps_[i].frame = static_cast<std::byte*>(start) + i * static_cast<size_t>(program.frame_bytes());
    warps_[i].undefined_lanes.resize(static_cast<size_t>(program.frame_bytes()) / kFrameUnit);
    program.initialise(warps_[i].frame);
  }
}

Outcome Machine::run() {
  std::vector<int64_t> blocks = launch_.only_blocks;
  if (blocks.empty()) {
    blocks.resize(static_cast<size_t>(count_of(launch_.grid)));
    std::iota(blocks.begin(), blocks.end(), 0);
  }
  if (launch_.order) std::shuffle(blocks.begin(), blocks.end(), generator_);
  block_.epochs.launch = ++memory_.epoch;
  for (const int64_t index : blocks) {
    try {
      run_block(index);
    } catch (const Violation& violation) {
      outcome_.failure = Failure{violation.what(), running_instruction_, position_of(index, launch_.grid),
                                 running_ ? running_->index : -1, violation.lane};
      break;
    }
    ++outcome_.blocks;
  }
  return std::move(outcome_);
}

void Machine::run_block(int64_t index) {
  block_.epochs.block = block_.epochs.now = ++memory_.epoch;
  budget_ = kMostInstructions;
  start_warps(position_of(index, launch_.grid));
  while ((running_ = next_warp())) run_warp(*running_, launch_.order ? 1 + random() % 256 : kMostInstructions);
}

void Machine::start_warps(const std::array<uint32_t, 3>& position) {
  const int64_t threads = count_of(launch_.block);
  for (size_t i = 0; i < warps_.size(); ++i) {
    Warp& warp = warps_[i];
    warp.block = &block_;
    warp.index = static_cast<int>(i);
    const int64_t lanes = std::min<int64_t>(kLanes, threads - static_cast<int64_t>(i) * kLanes);
    warp.live = lanes == kLanes ? kAllLanes : (1u << lanes) - 1;
    warp.part = 0;
    warp.at_barrier = false;
    warp.waited = launch_.follows ? 0 : kAllLanes;
    warp.copies.clear();
    warp.any_undefined = false;
    std::fill(warp.undefined_lanes.begin(), warp.undefined_lanes.end(), 0);
    warp.paths = {{0, warp.live, static_cast<int32_t>(program_.code().size())}};
    fill_special(warp, position);
  }
}

void Machine::fill_special(Warp& warp, const std::array<uint32_t, 3>& position) {
  for (const auto& [name, index] : launch_.special) {
    uint32_t* to = warp.at<uint32_t>(program_.register_at(index));
    const int axis = name.back() - 'x';
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t thread = warp.index * kLanes + lane;
      if (name == "%laneid") {
        to[lane] = static_cast<uint32_t>(lane);
      } else if (name.rfind("%tid", 0) == 0) {
        to[lane] = position_of(thread, launch_.block)[static_cast<size_t>(axis)];
      } else {
        const auto& sizes = name.rfind("%ntid", 0) == 0     ? launch_.block
                            : name.rfind("%nctaid", 0) == 0 ? launch_.grid
                                                            : position;
        to[lane] = sizes[static_cast<size_t>(axis)];
      }
    }
  }
}

// The warp that runs next; none when all have left.
Warp* Machine::next_warp() {
  const size_t first = launch_.order ? random() % warps_.size() : 0;
  bool waiting = false, left = false;
  for (size_t i = 0; i < warps_.size(); ++i) {
    Warp& warp = warps_[(first + i) % warps_.size()];
    if (warp.live && !warp.at_barrier) return &warp;
    (warp.live ? waiting : left) = true;
  }
  if (!waiting) return nullptr;
  for (Warp& warp : warps_) {
    if (!warp.live) continue;
    running_ = &warp;
    running_instruction_ = warp.paths.back().pc - 1;
    if (left) throw Violation("a barrier that not every warp of the block reaches");
  }
  pass_barrier();
  return &warps_[first];
}

void Machine::pass_barrier() {
  block_.epochs.now = ++memory_.epoch;
  for (Warp& warp : warps_) {
    warp.at_barrier = false;
    warp.part = 0;
  }
}

void Machine::run_warp(Warp& warp, int64_t instructions) {
  budget_ -= 1;
  for (int64_t i = 0; i < instructions && warp.live && !warp.at_barrier; ++i) {
    if (--budget_ < 0) throw Violation("a block that does not end");
    if (!step(warp)) --i;
  }
}

// Executes one instruction; false if it was only the end of a path.
bool Machine::step(Warp& warp) {
  Path& path = warp.paths.back();
  if (path.pc == path.reconvergence && warp.paths.size() > 1) {
    warp.paths.pop_back();
    return false;
  }
  running_instruction_ = path.pc;
  if (path.pc == static_cast<int32_t>(program_.code().size())) throw Violation("the end of the code without ret");
  const Instruction& in = program_.code()[static_cast<size_t>(path.pc)];
  uint32_t mask = path.mask;
  if (in.guard >= 0) {
    if (warp.any_undefined && warp.undefined(in.guard) & mask) {
      throw Violation("a predicate computed from what nothing has written",
                      __builtin_ctz(warp.undefined(in.guard) & mask));
    }
    const uint32_t guard = warp.predicate(in.guard);
    mask &= in.negated ? ~guard : guard;
  }
  Traffic& traffic = outcome_.traffic[static_cast<size_t>(path.pc)];
  ++traffic.issued;
  traffic.lanes += static_cast<uint64_t>(__builtin_popcount(mask));
  warp.traffic = &traffic;
  switch (in.kind) {
    case Kind::kOrdinary:
      if (mask) in.run(warp, in, mask);
      ++path.pc;
      break;
    case Kind::kBranch: branch(warp, in, mask); break;
    case Kind::kExit:
      ++path.pc;
      leave(warp, mask);
      break;
    case Kind::kBlockBarrier:
      arrive(warp, mask);
      ++path.pc;
      break;
  }
  return true;
}

void Machine::branch(Warp& warp, const Instruction& in, uint32_t taken) {
  Path& path = warp.paths.back();
  const uint32_t others = path.mask & ~taken;
  if (!others || !taken) {
    path.pc = taken ? in.target : path.pc + 1;
    return;
  }
  Path first{path.pc + 1, others, in.reconvergence}, second{in.target, taken, in.reconvergence};
  if (launch_.order && random() % 2) std::swap(first, second);
  path.pc = in.reconvergence;
  if (path.pc == path.reconvergence && warp.paths.size() > 1) warp.paths.pop_back();
  for (const Path& side : {first, second}) {
    if (side.pc != side.reconvergence) warp.paths.push_back(side);
  }
}

void Machine::leave(Warp& warp, uint32_t mask) {
  for (const AsyncCopy& copy : warp.copies) {
    if (mask >> copy.lane & 1) throw Violation("a thread that leaves with a cp.async not waited for", copy.lane);
  }
  // A launch that follows this one waits for this one alone.
  if (mask & ~warp.waited) {
    throw Violation("a thread that leaves without griddepcontrol.wait", __builtin_ctz(mask & ~warp.waited));
  }
  warp.live &= ~mask;
  for (Path& path : warp.paths) path.mask &= ~mask;
  const auto empty = [](const Path& path) { return path.mask == 0; };
  warp.paths.erase(std::remove_if(warp.paths.begin(), warp.paths.end(), empty), warp.paths.end());
}

void Machine::arrive(Warp& warp, uint32_t mask) {
  if (mask != kAllLanes) throw Violation("a barrier of part of a warp", __builtin_ctz(~mask));
  warp.at_barrier = true;
}

}  // namespace ptx

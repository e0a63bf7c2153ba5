// What the lanes of a warp do together: shuffles, matrix products, bar.warp.sync; and waiting for earlier launches.
#include <cmath>

#include "rounding.h"
#include "warp.h"

namespace ptx {

namespace {

enum class Shuffle { kIndex, kButterfly, kUp, kDown };

// The lane that `lane` reads; PTX ISA, "shfl.sync". `valid` is what the second destination gets.
int source_lane(Shuffle mode, int lane, uint32_t by, uint32_t clamp, bool& valid) {
  const auto limit = static_cast<int>(clamp & 31), segment = static_cast<int>(clamp >> 8 & 31);
  const int most = (lane & segment) | (limit & ~segment), least = lane & segment;
  const auto b = static_cast<int>(by & 31);
  int from = 0;
  switch (mode) {
    case Shuffle::kIndex: from = least | (b & ~segment); break;
    case Shuffle::kButterfly: from = lane ^ b; break;
    case Shuffle::kUp: from = lane - b; break;
    case Shuffle::kDown: from = lane + b; break;
  }
  valid = mode == Shuffle::kUp ? from >= most : from <= most;
  return valid ? from : lane;
}

// Operands: result, predicate, value, by, clamp, members.
template <Shuffle kMode>
void shuffle(Warp& warp, const Instruction& in, uint32_t mask) {
  require_full_warp(warp, mask, *warp.at<uint32_t>(in.operands[5]));
  uint32_t values[kLanes], valid = 0, undefined = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    bool exists = false;
    const int from = source_lane(kMode, lane, warp.at<uint32_t>(in.operands[3])[lane],
                                 warp.at<uint32_t>(in.operands[4])[lane], exists);
    values[lane] = warp.at<uint32_t>(in.operands[2])[from];
    valid |= uint32_t{exists} << lane;
    undefined |= (warp.undefined(in.operands[2]) >> from & 1) << lane;
  }
  std::memcpy(warp.at<uint32_t>(in.operands[0]), values, sizeof(values));
  warp.predicate(in.operands[1]) = valid;
  const uint32_t choice = warp.undefined(in.operands[3]) | warp.undefined(in.operands[4]);
  warp.define(in.operands[0], mask, undefined | choice);
  warp.define(in.operands[1], mask, choice);
}

void sync_warp(Warp& warp, const Instruction& in, uint32_t mask) {
  require_full_warp(warp, mask, *warp.at<uint32_t>(in.operands[0]));
  ++warp.part;
}

using Widen = float (*)(uint16_t);

// Towards zero, as the sums of tensor cores have been found to be rounded; PTX leaves it open.
float truncated(double value) {
  const auto rounded = static_cast<float>(value);
  if (!std::isfinite(rounded) || std::fabs(static_cast<double>(rounded)) <= std::fabs(value)) return rounded;
  return std::nextafter(rounded, 0.0f);
}

// A result is undefined where a value of its row of a, of its column of b or of c is.
template <int kDepth>
void define_results(Warp& warp, const int32_t* d, const int32_t* a, const int32_t* b, const int32_t* c) {
  bool rows[16] = {}, columns[8] = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < kDepth / 4; ++i) rows[lane / 4 + i % 2 * 8] |= warp.undefined(a[i]) >> lane & 1;
    for (int i = 0; i < kDepth / 8; ++i) columns[lane / 4] |= warp.undefined(b[i]) >> lane & 1;
  }
  for (int i = 0; i < 4; ++i) {
    uint32_t undefined = warp.undefined(c[i]);
    for (int lane = 0; lane < kLanes; ++lane) {
      undefined |= uint32_t{rows[lane / 4 + i / 2 * 8] || columns[lane % 4 * 2 + i % 2]} << lane;
    }
    warp.define(d[i], kAllLanes, undefined);
  }
}

// d[16][8] = a[16][kDepth] b[kDepth][8] + c; products are exact, their sum nearly (float64), rounded once.
// PTX ISA, "Matrix fragments for mma.m16n8k16": lane 4 g + q holds rows g and g + 8 of a, column g of b.
template <int kDepth, Widen kWiden>
void multiply_matrices(Warp& warp, const Instruction& in, uint32_t mask) {
  require_full_warp(warp, mask, kAllLanes);
  constexpr int kWordsA = kDepth / 4, kWordsB = kDepth / 8;
  const int32_t *d = in.operands, *a_at = d + 4, *b_at = a_at + kWordsA, *c_at = b_at + kWordsB;
  if (warp.any_undefined) define_results<kDepth>(warp, d, a_at, b_at, c_at);
  double a[16][kDepth], b[kDepth][8], sums[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, q = lane % 4;
    for (int i = 0; i < kWordsA; ++i) {
      const uint32_t word = warp.at<uint32_t>(a_at[i])[lane];
      double* to = &a[g + i % 2 * 8][2 * q + i / 2 * 8];
      to[0] = kWiden(static_cast<uint16_t>(word));
      to[1] = kWiden(static_cast<uint16_t>(word >> 16));
    }
    for (int i = 0; i < kWordsB; ++i) {
      const uint32_t word = warp.at<uint32_t>(b_at[i])[lane];
      b[2 * q + 8 * i][g] = kWiden(static_cast<uint16_t>(word));
      b[2 * q + 8 * i + 1][g] = kWiden(static_cast<uint16_t>(word >> 16));
    }
    for (int i = 0; i < 4; ++i) sums[g + i / 2 * 8][2 * q + i % 2] = warp.at<float>(c_at[i])[lane];
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < 8; ++column) sums[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      warp.at<float>(d[i])[lane] = truncated(sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
    }
  }
}

void wait_for_earlier_launches(Warp& warp, const Instruction&, uint32_t mask) { warp.waited |= mask; }

template <int kDepth>
void add_products(Opcodes& table) {
  const std::vector<int8_t> widths(static_cast<size_t>(8 + kDepth / 4 + kDepth / 8), 4);
  const std::string name = "mma.sync.aligned.m16n8k" + std::to_string(kDepth) + ".row.col.f32.";
  table[name + "f16.f16.f32"] = {multiply_matrices<kDepth, from_float16>, widths};
  table[name + "bf16.bf16.f32"] = {multiply_matrices<kDepth, from_bfloat16>, widths};
}

}  // namespace

void add_collectives(Opcodes& table) {
  const std::vector<int8_t> shuffled{4, 0, 4, 4, 4, 4};
  table["shfl.sync.idx.b32"] = {shuffle<Shuffle::kIndex>, shuffled};
  table["shfl.sync.bfly.b32"] = {shuffle<Shuffle::kButterfly>, shuffled};
  table["shfl.sync.up.b32"] = {shuffle<Shuffle::kUp>, shuffled};
  table["shfl.sync.down.b32"] = {shuffle<Shuffle::kDown>, shuffled};
  table["bar.warp.sync"] = {sync_warp, {4}};
  table["griddepcontrol.wait"] = {wait_for_earlier_launches, {}};
  table["griddepcontrol.launch_dependents"] = {[](Warp&, const Instruction&, uint32_t) {}, {}};
  add_products<8>(table);
  add_products<16>(table);
}

}  // namespace ptx

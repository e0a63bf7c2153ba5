#include "cpu/instruction_sets.h"

#include <torch/headeronly/util/Exception.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace deltaconv::cpu {
namespace {

struct Candidate {
  const InstructionSet* set;
  bool runs_here;
};

// The instruction sets that were built, widest first.
std::vector<Candidate> candidates() {
  std::vector<Candidate> built;
#if defined(__x86_64__)
  __builtin_cpu_init();
  [[maybe_unused]] const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  [[maybe_unused]] const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                                       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                                       __builtin_cpu_supports("avx512dq");
#endif
#if defined(DELTACONV_HAS_avx512)
  built.push_back({&avx512::kInstructionSet, avx512});
#endif
#if defined(DELTACONV_HAS_avx2)
  built.push_back({&avx2::kInstructionSet, avx2});
#endif
#if defined(DELTACONV_HAS_baseline)
  built.push_back({&baseline::kInstructionSet, true});
#endif
  return built;
}

const InstructionSet& choose() {
  const char* forced = std::getenv("DELTACONV_CPU_ISA");
  std::string known;
  for (const Candidate& candidate : candidates()) {
    if (forced && std::string(forced) == candidate.set->name) {
      STD_TORCH_CHECK(candidate.runs_here, "DELTACONV_CPU_ISA=", forced, ": this machine lacks these instructions");
      return *candidate.set;
    }
    if (!forced && candidate.runs_here) return *candidate.set;
    known += std::string(known.empty() ? "" : ", ") + candidate.set->name;
  }
  STD_TORCH_CHECK(false, "DELTACONV_CPU_ISA: expected one of ", known, ", got '",
                  forced ? forced : "none of them, which this machine lacks", "'");
}

}  // namespace

const InstructionSet& instruction_set() {
  static const InstructionSet& chosen = choose();
  return chosen;
}

const InstructionSet& narrow_instruction_set() {
#if defined(DELTACONV_HAS_avx512) && defined(DELTACONV_HAS_avx2)
  static const bool forced = std::getenv("DELTACONV_CPU_ISA");
  if (!forced && &instruction_set() == &avx512::kInstructionSet) return avx2::kInstructionSet;
#endif
  return instruction_set();
}

}  // namespace deltaconv::cpu

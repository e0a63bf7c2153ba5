#include "cpu/instruction_sets.h"

#include <torch/headeronly/util/Exception.h>

#include <cstdlib>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace deltaconv::cpu {
namespace {

#if defined(__x86_64__)

// Whether the processor has what each build of the kernels was compiled for, and the system keeps its registers.
struct X86 {
  bool avx2, avx512;
};

// Asks the processor itself: Clang 14's __builtin_cpu_supports knows no "f16c", and clang-cl links nothing that
// would answer it.
X86 ask_x86() {
  unsigned a, b, c, d, kept = 0, kept_high;
  const auto has = [](unsigned word, unsigned bits) { return (word & bits) == bits; };
  if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, bit_OSXSAVE)) return {};
  __asm__("xgetbv" : "=a"(kept), "=d"(kept_high) : "c"(0));
  constexpr unsigned kYmm = 0x06, kZmm = 0xe6;  // XCR0: XMM and YMM; ZMM, its upper 16 and masks too
  const bool avx = has(c, bit_AVX | bit_FMA | bit_F16C) && has(kept, kYmm);
  if (!avx || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return {};
  const bool avx2 = has(b, bit_AVX2);
  return {avx2, avx2 && has(b, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ) && has(kept, kZmm)};
}

#endif

struct Candidate {
  const InstructionSet* set;
  bool runs_here;
};

// The instruction sets that were built, widest first.
std::vector<Candidate> candidates() {
  std::vector<Candidate> built;
#if defined(__x86_64__)
  [[maybe_unused]] const X86 here = ask_x86();
#endif
#if defined(DELTACONV_HAS_avx512)
  built.push_back({&avx512::kInstructionSet, here.avx512});
#endif
#if defined(DELTACONV_HAS_avx2)
  built.push_back({&avx2::kInstructionSet, here.avx2});
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

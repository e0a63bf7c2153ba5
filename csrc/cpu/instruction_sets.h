// The builds of the kernels that this library holds, and the build in use.
#pragma once

#include "cpu/problem.h"

namespace deltaconv::cpu {

namespace baseline {
extern const InstructionSet kInstructionSet;
}
#if defined(__x86_64__)
namespace avx2 {
extern const InstructionSet kInstructionSet;
}
namespace avx512 {
extern const InstructionSet kInstructionSet;
}
#endif

// The widest instruction set that this machine has, or the one that the environment variable DELTACONV_CPU_ISA names.
// Raises if that one is unknown or the machine lacks it.
const InstructionSet& instruction_set();

// Images of at most this many channels are narrow: their 8 pairs fit a vector of AVX2.
inline constexpr int64_t kNarrowChannels = 16;

// The instruction set for narrow images: AVX2 rather than AVX-512, whose vectors would be half empty and which some
// processors (Zen 4) work off in two halves; or the one that DELTACONV_CPU_ISA names.
const InstructionSet& narrow_instruction_set();

}  // namespace deltaconv::cpu

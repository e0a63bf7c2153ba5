// The builds of the kernels that this library holds, and the one in use.
#pragma once

#include "cpu/plan.h"

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

// The widest that this machine has, or the one that the environment variable DELTACONV_CPU_ISA names.
// Raises if that one is unknown or the machine lacks it.
const InstructionSet& instruction_set();

}  // namespace deltaconv::cpu

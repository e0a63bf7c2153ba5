#include "cpu/kernels.h"

#include "cpu/instruction_sets.h"

#define DELTACONV_STRING(name) #name
#define DELTACONV_NAME(name) DELTACONV_STRING(name)

namespace deltaconv::cpu::DELTACONV_ISA {
namespace {

template <class T>
constexpr Kernels<T> kKernels = {convolution_tile<T>, forward_scratch<T>, forward<T>,
                                 backward_scratch<T>, backward<T>,        reduce<T>};

}  // namespace

const InstructionSet kInstructionSet = {DELTACONV_NAME(DELTACONV_ISA),
                                        kKernels<float>,
                                        kKernels<PreciseFloat>,
                                        kKernels<double>,
                                        kKernels<Half>,
                                        kKernels<BFloat16>};

}  // namespace deltaconv::cpu::DELTACONV_ISA

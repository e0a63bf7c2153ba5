// The entry points that forward.cpp and backward.cpp give to an instruction set's table.
#pragma once

#include "cpu/problem.h"

namespace deltaconv::cpu::DELTACONV_ISA {

template <class T>
int64_t convolution_tile(const Problem<T>& problem);

template <class T>
int64_t forward_scratch(const ForwardArguments<T>& arguments, const ForwardTask& task);
template <class T>
void forward(const ForwardArguments<T>& arguments, const ForwardTask& task, void* scratch);

template <class T>
int64_t backward_scratch(const BackwardArguments<T>& arguments, const BackwardTask& task);
template <class T>
void backward(const BackwardArguments<T>& arguments, const BackwardTask& task, void* scratch);
template <class T>
void reduce(const Accumulator<T>* partials, int64_t count, int64_t stride, Span range, T* out);

}  // namespace deltaconv::cpu::DELTACONV_ISA

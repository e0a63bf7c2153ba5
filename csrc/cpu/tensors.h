// Makes a Problem of checked tensors: the storage type becomes a template argument.
#pragma once

#include <type_traits>

#include "cpu/instruction_sets.h"
#include "cpu/resampling.h"
#include "inputs.h"

namespace deltaconv::cpu {

// The tensor as an image of T, which is const where the tensor is only read.
template <class T>
Image<T> image_of(const Tensor& tensor) {
  if constexpr (std::is_const_v<T>) {
    return {static_cast<T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
  } else {
    return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
  }
}

template <class T>
Problem<T> problem_of(const Inputs& inputs, const StagePlans<Accumulator<T>>& stages) {
  return {inputs.sizes,
          inputs.gate,
          static_cast<Accumulator<T>>(inputs.gate_scale),
          stages.data(),
          image_of<const T>(inputs.x),
          static_cast<const T*>(inputs.weight.const_data_ptr()),
          inputs.bias ? static_cast<const T*>(inputs.bias->const_data_ptr()) : nullptr};
}

// Up to this many channels float32 is summed in float64. The contract bounds the error of each result by its norm, and
// a norm of a few numbers (the gradient of two biases) may cancel; with more it practically cannot. All of a pixel's
// pairs fit one vector either way.
inline constexpr int64_t kPreciseChannels = 8;

// Calls launch(kernels) with the Kernels<T> of these tensors' storage type T in the instruction set in use.
template <class Launch>
void dispatch(const Inputs& inputs, const Launch& launch) {
  const bool narrow = inputs.sizes.C <= kNarrowChannels;
  const InstructionSet& set = narrow ? narrow_instruction_set() : instruction_set();
  switch (inputs.x.scalar_type()) {
    case ScalarType::Float:
      return inputs.sizes.C <= kPreciseChannels ? launch(set.precise_float32) : launch(set.float32);
    case ScalarType::Double: return launch(set.float64);
    case ScalarType::Half: return launch(set.float16);
    case ScalarType::BFloat16: return launch(set.bfloat16);
    default:
      STD_TORCH_CHECK(false, "x: expected float32, float64, float16 or bfloat16, got ",
                      toString(inputs.x.scalar_type()));
  }
}

}  // namespace deltaconv::cpu

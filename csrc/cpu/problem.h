// From checked tensors to a Problem: the storage type becomes a template argument.
#pragma once

#include "cpu/instruction_sets.h"
#include "cpu/resampling.h"
#include "inputs.h"

namespace deltaconv::cpu {

template <class T>
Image<T> image_of(const Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

template <class T>
Image<const T> const_image_of(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1),
          tensor.stride(2)};
}

template <class T>
Problem<T> problem_of(const Inputs& inputs, const StagePlans<Accumulator<T>>& stages) {
  return {inputs.sizes,
          inputs.gate,
          static_cast<Accumulator<T>>(inputs.gate_scale),
          stages.data(),
          const_image_of<T>(inputs.x),
          static_cast<const T*>(inputs.weight.const_data_ptr()),
          inputs.bias ? static_cast<const T*>(inputs.bias->const_data_ptr()) : nullptr};
}

// Calls launch(kernels) with the Kernels<T> of this tensor's storage type T in the instruction set in use.
template <class Launch>
void dispatch(const Tensor& tensor, const Launch& launch) {
  const InstructionSet& set = instruction_set();
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return launch(set.float32);
    case ScalarType::Double: return launch(set.float64);
    case ScalarType::Half: return launch(set.float16);
    case ScalarType::BFloat16: return launch(set.bfloat16);
    default:
      STD_TORCH_CHECK(false, "x: expected float32, float64, float16 or bfloat16, got ",
                      toString(tensor.scalar_type()));
  }
}

}  // namespace deltaconv::cpu

// Makes a Problem of checked tensors: the storage type becomes a template argument.
#pragma once

#include "cuda/layout/problem.h"
#include "cuda/plan/plan.h"
#include "inputs.h"

namespace deltaconv::cuda {

// What the launch plan needs to know of the tensors.
//
// Raises: a storage type without kernels; an axis beyond what positions in 32 bits allow (layout/geometry.h).
PlanProblem plan_problem_of(const Inputs& inputs);

template <class T>
Image<T> image_of(const Tensor& tensor) {
  return {static_cast<T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

// `vectors`: the other tensors of the launch allow 16-byte accesses.
template <class T>
Problem<T> problem_of(const Inputs& inputs, bool vectors) {
  const Image<const T> image = image_of<const T>(inputs.x);
  const auto* weights = static_cast<const T*>(inputs.weight.const_data_ptr());
  const bool aligned = reinterpret_cast<uintptr_t>(weights) % 16 == 0 && rows_aligned(image);
  return {inputs.sizes,
          inputs.gate,
          static_cast<float>(inputs.gate_scale),
          vectors && aligned && inputs.sizes.C / 2 % (16 / sizeof(T)) == 0,
          0,
          {},
          image,
          weights,
          inputs.bias ? static_cast<const T*>(inputs.bias->const_data_ptr()) : nullptr};
}

// Calls launch with a value of the tensors' storage type.
template <class Launch>
void with_element(ElementType type, const Launch& launch) {
  switch (type) {
    case ElementType::kFloat32: return launch(float{});
    case ElementType::kFloat16: return launch(Half{});
    case ElementType::kBFloat16: return launch(BFloat16{});
  }
}

}  // namespace deltaconv::cuda

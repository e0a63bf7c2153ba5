// Runs the kernels of the host build on plain memory, planned as for a given GPU.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/ops/launch.h"

namespace deltaconv::cuda {

// A [B, H, W, channels] tensor with dense channels; address 0: none.
struct HostImage {
  uintptr_t address;
  int64_t batch_stride, row_stride, col_stride;
};

struct HostProblem {
  PlanProblem plan;
  DeviceProperties device;
  int gate;
  double gate_scale;
  HostImage x;
  uintptr_t weight, bias;
};

template <class P>
Image<P> image_of(const HostImage& image) {
  return {reinterpret_cast<P*>(image.address), image.batch_stride, image.row_stride, image.col_stride};
}

template <class T>
Problem<T> problem_of(const HostProblem& host, bool vectors) {
  const Image<const T> x = image_of<const T>(host.x);
  return {host.plan.sizes,
          static_cast<Gate>(host.gate),
          static_cast<float>(host.gate_scale),
          vectors && host.plan.sizes.C / 2 % (16 / sizeof(T)) == 0 && host.weight % 16 == 0 && rows_aligned(x),
          0,
          {},
          x,
          reinterpret_cast<const T*>(host.weight),
          reinterpret_cast<const T*>(host.bias)};
}

template <class Run>
void with_type(ElementType type, const Run& run) {
  switch (type) {
    case ElementType::kFloat32: return run(float{});
    case ElementType::kFloat16: return run(Half{});
    case ElementType::kBFloat16: return run(BFloat16{});
  }
}

inline void run_forward(const HostProblem& host, const HostImage& residual, uintptr_t result) {
  with_type(host.plan.type, [&](auto element) {
    using T = decltype(element);
    const bool vectors = rows_aligned(image_of<const T>(residual)) && result % 16 == 0;
    launch_forward<T>(forward_plan(host.plan, host.device),
                      {problem_of<T>(host, vectors), image_of<const T>(residual), reinterpret_cast<T*>(result)},
                      Stream{});
  });
}

// Addresses of what the backward pass writes; 0: not wanted.
struct HostGradients {
  uintptr_t x, weight, bias, workspace;
};

inline void run_backward(const HostProblem& host, const HostImage& grad, const HostGradients& to) {
  with_type(host.plan.type, [&](auto element) {
    using T = decltype(element);
    BackwardArguments<T> arguments{};
    arguments.grad = image_of<const T>(grad);
    arguments.problem = problem_of<T>(host, rows_aligned(arguments.grad) && to.x % 16 == 0);
    arguments.grad_x = reinterpret_cast<T*>(to.x);
    arguments.workspace = reinterpret_cast<float*>(to.workspace);
    launch_backward(backward_plan(host.plan, host.device), arguments, reinterpret_cast<T*>(to.weight),
                    reinterpret_cast<T*>(to.bias), Stream{});
  });
}

}  // namespace deltaconv::cuda

// Runs the fused block of the host build on plain memory.
#pragma once

#include "cuda/host/run.h"
#include "cuda/ops/fused_block.h"

namespace deltaconv::cuda {

// The fused block's tensors by address, as in FusedBlockTensors; 0: none.
struct HostFusedBlockTensors {
  uintptr_t x, residual, in_weight, in_bias, out_weight, out_bias, pool_weight, pool_bias;
  uintptr_t hidden, local, result, workspace;
};

// `pyramid` has its filters; its x is ignored.
inline void run_block(HostProblem pyramid, int64_t dim, const HostFusedBlockTensors& at) {
  const Sizes& sizes = pyramid.plan.sizes;
  pyramid.x = {at.hidden, sizes.H * sizes.W * sizes.C, sizes.W * sizes.C, sizes.C};  // unless it is planes
  const auto run = [&](auto element) {
    using T = decltype(element);
    const auto input = [](uintptr_t address) { return reinterpret_cast<const T*>(address); };
    const auto output = [](uintptr_t address) { return reinterpret_cast<T*>(address); };
    const FusedBlockTensors<T> tensors{
        input(at.x),          input(at.residual), input(at.in_weight),   input(at.in_bias),
        input(at.out_weight), input(at.out_bias), input(at.pool_weight), input(at.pool_bias),
        output(at.hidden),    output(at.local),   output(at.result),     reinterpret_cast<float*>(at.workspace)};
    launch_fused_block<T>(fused_block_plan({pyramid.plan, dim}, pyramid.device), tensors, problem_of<T>(pyramid, true),
                          Stream{});
  };
  pyramid.plan.type == ElementType::kFloat16 ? run(Half{}) : run(BFloat16{});
}

}  // namespace deltaconv::cuda

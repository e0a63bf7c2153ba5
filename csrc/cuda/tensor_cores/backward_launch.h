// Launches of the backward kernels of tensor cores.
#pragma once

#include "cuda/tensor_cores/backward_gate.h"
#include "cuda/tensor_cores/backward_input.h"
#include "cuda/tensor_cores/launch.h"

namespace deltaconv::cuda {

// Calls launch with the tile that a plan chose.
template <class Launch>
void with_banded_tile(int64_t K, const LaunchPlan& plan, const Launch& launch) {
  const Tiling& tiling = plan.stages.at[0].tiling;
  for_each_banded_tile(K, [&](auto banded) {
    if (tiling.rows == banded.kRows && tiling.cols == banded.kCols) launch(banded);
  });
}

template <class T>
void launch_tensor_cores_gate(const LaunchPlan& plan, BackwardArguments<T> arguments, Stream stream) {
  arguments.problem.stages = plan.stages;
  with_banded_tile(arguments.problem.sizes.K, plan, [&](auto banded) {
    launch<PyramidBackwardGateBanded<T, decltype(banded)>>(plan.grid, arguments, stream);
  });
}

template <class T>
void launch_tensor_cores_input(const BackwardPlan& plan, const BackwardArguments<T>& arguments, Stream stream) {
  BackwardInputArguments<T> all{arguments, {}, false};
  all.backward.problem.stages = plan.gate.stages;
  for (const LaunchPlan* part : {&plan.reduced, &plan.input}) {
    all.tiles = part->stages;
    all.last = part == &plan.input;
    with_banded_tile(arguments.problem.sizes.K, *part, [&](auto banded) {
      launch<PyramidBackwardInputBanded<T, decltype(banded)>>(part->grid, all, stream);
    });
  }
}

}  // namespace deltaconv::cuda

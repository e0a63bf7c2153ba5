// The weight gradient's launch on tensor cores for storage type DELTACONV_STORAGE.
#include "cuda/tensor_cores/launch.h"
#include "cuda/tensor_cores/weight/kernel.h"

namespace deltaconv::cuda::tensor_cores {

template <class T>
void launch_backward_weight(const BackwardPlan& plan, const BackwardArguments<T>& arguments, Stream stream) {
  const WeightPlan& weight = plan.weight;
  WeightBandArguments<T> all{arguments, arguments.workspace + plan.workspace.partials, weight.partitions,
                             weight.input_rows};
  all.backward.problem.stages = weight.stages;
  for_each_weight_band(arguments.problem.sizes.K, [&](auto band) {
    if (weight.stages.at[0].tiling.cols != band.kCols) return;
    launch<PyramidBackwardWeight<T, decltype(band)>>(weight.grid, all, stream);
  });
}

template void launch_backward_weight(const BackwardPlan&, const BackwardArguments<DELTACONV_STORAGE>&, Stream);

}  // namespace deltaconv::cuda::tensor_cores

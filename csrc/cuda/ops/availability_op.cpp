// What Python asks before the first launch on a GPU; see backends.py.
#include <torch/csrc/stable/library.h>

#include "cuda/ops/availability.h"
#include "cuda/ops/stream.h"

namespace deltaconv::cuda {
namespace {

int64_t cuda_architecture(int64_t device) {
  check_torch_has_cuda();
  return compiled_architecture(static_cast<int32_t>(device));
}

}  // namespace
}  // namespace deltaconv::cuda

STABLE_TORCH_LIBRARY_IMPL(DELTACONV_NAMESPACE, CompositeExplicitAutograd, library) {
  library.impl("cuda_architecture", TORCH_BOX(&deltaconv::cuda::cuda_architecture));
}

// The stream that torch's kernels run on.
#pragma once

#include <cstdint>

#include "cuda/device/types.h"

namespace deltaconv::cuda {

// Raises: torch has no CUDA, so that there is nothing to ask.
Stream current_stream(int32_t device);

// Raises what `current_stream` would, without a device.
void check_torch_has_cuda();

}  // namespace deltaconv::cuda

// What the launch plan needs to know of a GPU.
#pragma once

#include "cuda/plan/plan.h"

namespace deltaconv::cuda {

DeviceProperties device_properties(int32_t device);

}  // namespace deltaconv::cuda

// Whether the kernels of this library can run on a GPU.
#pragma once

#include <cstdint>

namespace deltaconv::cuda {

// The architecture of the code that GPU `device` runs, such as 90; code made of PTX for that GPU counts as its own.
//
// Raises: no GPU, a driver older than the CUDA runtime, a GPU that none of the compiled architectures serves.
int32_t compiled_architecture(int32_t device);

}  // namespace deltaconv::cuda

#include "cuda/ops/device_properties.h"

#include "cuda/device/device.h"

namespace deltaconv::cuda {
namespace {

int attribute(cudaDeviceAttr which, int32_t device) {
  int value = 0;
  check_launch(cudaDeviceGetAttribute(&value, which, device), "device properties");
  return value;
}

}  // namespace

DeviceProperties device_properties(int32_t device) {
  return {
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device),
      attribute(cudaDevAttrMultiProcessorCount, device), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
      attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device)};
}

}  // namespace deltaconv::cuda

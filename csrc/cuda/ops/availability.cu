#include <string>

#include "cuda/device/device.h"
#include "cuda/ops/availability.h"

namespace deltaconv::cuda {

// Compiled for the architectures of every kernel in the library: whether it can be loaded decides for all of them.
// Not in the unnamed namespace, where nvcc would put a digest of this file's path into its name.
__global__ void probe_kernel() {}

namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Without any driver the runtime calls the driver too old; its version is then 0.
void check_driver() {
  int devices = 0, driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices > 0) return;
  cudaGetLastError();
  check_launch(cudaDriverGetVersion(&driver), "driver version");
  if (driver == 0 || error == cudaSuccess || error == cudaErrorNoDevice) {
    throw std::runtime_error("no CUDA device was found");
  }
  if (error == cudaErrorInsufficientDriver) {
    throw std::runtime_error("the NVIDIA driver is for CUDA " + version_text(driver) + ", the library needs " +
                             version_text(CUDART_VERSION) + ": update the driver");
  }
  check_launch(error, "looking for GPUs");
}

class CurrentDevice {
 public:
  explicit CurrentDevice(int32_t device) {
    check_launch(cudaGetDevice(&previous_), "current device");
    check_launch(cudaSetDevice(device), "current device");
  }
  ~CurrentDevice() { cudaSetDevice(previous_); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int previous_ = 0;
};

std::string capability_text(int32_t device) {
  int major = 0, minor = 0;
  check_launch(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device properties");
  check_launch(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "device properties");
  return std::to_string(major) + "." + std::to_string(minor);
}

}  // namespace

int32_t compiled_architecture(int32_t device) {
  check_driver();
  const CurrentDevice current(device);
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (error == cudaSuccess) return attributes.binaryVersion;
  cudaGetLastError();
  throw std::runtime_error("compute capability " + capability_text(device) +
                           " cannot run the library, which was built for " DELTACONV_CUDA_ARCHS ": " +
                           cudaGetErrorString(error));
}

}  // namespace deltaconv::cuda

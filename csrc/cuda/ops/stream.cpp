// torch's function for the current stream is in libtorch_cuda.so alone. A CPU-only torch does not have that library, so
// linking against it would end the promise of one binary for both; and torch loads it in local scope, so leaving the
// symbol undefined would end in "undefined symbol" on a CUDA torch too. It is therefore looked up in the library that
// the process has loaded.
#include "cuda/ops/stream.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace deltaconv::cuda {
namespace {

constexpr const char* kLibrary = "libtorch_cuda.so";
constexpr const char* kFunction = "aoti_torch_get_current_cuda_stream";

using GetCurrentStream = int32_t (*)(int32_t device, void** stream);  // 0 is success

GetCurrentStream find_function() {
  void* library = dlopen(kLibrary, RTLD_LAZY | RTLD_NOLOAD);  // what is loaded already, or null
  if (!library) {
    throw std::runtime_error(std::string("torch has not loaded ") + kLibrary + "; is this a torch with CUDA?");
  }
  void* function = dlsym(library, kFunction);
  if (!function) throw std::runtime_error(std::string(kLibrary) + " has no " + kFunction);
  return reinterpret_cast<GetCurrentStream>(function);
}

GetCurrentStream get_current_stream() {
  static const GetCurrentStream function = find_function();
  return function;
}

}  // namespace

void check_torch_has_cuda() { get_current_stream(); }

Stream current_stream(int32_t device) {
  Stream stream;
  if (get_current_stream()(device, &stream.handle) != 0) {
    throw std::runtime_error("torch could not name the current stream of GPU " + std::to_string(device));
  }
  return stream;
}

}  // namespace deltaconv::cuda

// Runs what AOTInductor packaged, without Python: run_package LIBRARY PACKAGE RESULT SHAPE INPUT...
// LIBRARY is libdeltaconv_cpu.so; inputs and the result are files of float32; SHAPE, such as 2x13x11x16, is each input's.
#include <ATen/ops/from_blob.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <fstream>
#include <sstream>

namespace {

at::Tensor read(const char* path, const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  std::vector<float> numbers(count);
  std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(numbers.data()), count * sizeof(float));
  return at::from_blob(numbers.data(), shape, at::kFloat).clone();
}

}  // namespace

int main(int argc, char** argv) {
  void* library = dlopen(argv[1], RTLD_NOW);
  if (!library) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  reinterpret_cast<void (*)()>(dlsym(library, "deltaconv_declare_operators"))();

  std::vector<int64_t> shape;
  std::istringstream sizes(argv[4]);
  for (std::string size; std::getline(sizes, size, 'x');) shape.push_back(std::stoll(size));
  std::vector<at::Tensor> inputs;
  for (int i = 5; i < argc; ++i) inputs.push_back(read(argv[i], shape));

  torch::inductor::AOTIModelPackageLoader model(argv[2]);
  const at::Tensor result = model.run(inputs).at(0).contiguous();
  std::ofstream(argv[3], std::ios::binary).write(static_cast<const char*>(result.data_ptr()), result.nbytes());
}

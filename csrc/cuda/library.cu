// The CUDA library's home. It holds no kernels yet: deltaconv_kernels.backends() says so where it is loaded.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_IMPL(deltaconv, CUDA, library) { (void)library; }

// deltaconv::pyramid in a process without Python, where nothing else declares it: for programs in C++ that run what
// AOTInductor packaged. They load this library and call deltaconv_declare_operators once (docs/deployment.md).
#include <torch/csrc/stable/library.h>

#include <iterator>
#include <string>

#include "cpu/forward_op.h"
#include "declarations.h"

namespace deltaconv::cpu {
namespace {

Tensor pyramid(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, std::vector<int64_t> factors,
               std::string gate, double gate_scale, const std::optional<Tensor>& residual) {
  int64_t index = 0;
  for (const char* name : kGates) {
    if (gate == name) return pyramid_cpu(x, weight, bias, std::move(factors), index, gate_scale, residual);
    ++index;
  }
  STD_TORCH_CHECK(false, "gate: expected one of ", std::size(kGates), " names, got ", gate);
}

}  // namespace
}  // namespace deltaconv::cpu

extern "C" __attribute__((visibility("default"))) void deltaconv_declare_operators() {
  using Library = torch::stable::detail::StableLibrary;
  constexpr const char* kNamespace = C10_STRINGIZE(DELTACONV_NAMESPACE);
  static Library declarations(Library::Kind::FRAGMENT, kNamespace, nullptr, __FILE__, __LINE__);
  static Library kernels(Library::Kind::IMPL, kNamespace, "CPU", __FILE__, __LINE__);
  static const bool once = [] {
    declarations.def(kPyramidSchema);
    kernels.impl("pyramid", TORCH_BOX(&deltaconv::cpu::pyramid));
    return true;
  }();
  static_cast<void>(once);
}

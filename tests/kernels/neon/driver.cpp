// Runs the baseline CPU kernels without torch, on problems from one file, and writes what they compute to
// another: test_neon.py builds it for another processor and runs it in an emulator.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <type_traits>
#include <vector>

#include "cpu/instruction_sets.h"
#include "cpu/resampling.h"

namespace {

using namespace deltaconv;
using namespace deltaconv::cpu;

// A problem in the file: this, the factors, x, weight, bias, residual, grad.
struct Header {
  int64_t B, H, W, C, S, K, dtype, gate;
};

template <class T>
std::vector<T> read(FILE* file, int64_t count) {
  std::vector<T> values(count);
  if (std::fread(values.data(), sizeof(T), values.size(), file) != values.size()) std::abort();
  return values;
}

template <class Arguments, class Task>
void run_task(int64_t (*scratch)(const Arguments&, const Task&),
              void (*run)(const Arguments&, const Task&, void*), const Arguments& arguments,
              const Task& task) {
  const int64_t bytes = (scratch(arguments, task) + 63) / 64 * 64;
  const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(64, bytes), &std::free);
  run(arguments, task, memory.get());
}

template <class T>
void compute(const Kernels<T>& kernels, const Header& header, FILE* in, FILE* out) {
  using A = Accumulator<T>;
  const Sizes sizes{header.B, header.H, header.W, header.C, header.S, header.K};
  const int64_t pixels = sizes.B * sizes.H * sizes.W, channels = sizes.S * sizes.C / 2,
                taps = sizes.K * sizes.K;
  const StagePlans<A> stages(sizes, read<int64_t>(in, sizes.S), true);
  const std::vector<T> x = read<T>(in, pixels * sizes.C), weight = read<T>(in, sizes.S * taps * sizes.C);
  const std::vector<T> bias = read<T>(in, sizes.S * sizes.C), residual = read<T>(in, pixels * channels);
  const std::vector<T> grad = read<T>(in, pixels * channels);
  const auto image = [&](auto* data, int64_t c) {
    return Image<std::remove_pointer_t<decltype(data)>>{data, sizes.H * sizes.W * c, sizes.W * c, c};
  };
  const Problem<T> problem{sizes,         static_cast<Gate>(header.gate), A(1.5),
                           stages.data(), image(x.data(), sizes.C),       weight.data(),
                           bias.data()};

  const int64_t strips = sizes.H >= 8 ? 2 : 1, part = sizes.S * (taps + 1) * sizes.C;
  std::vector<T> result(residual.size()), grad_x(x.size()), grad_weight(weight.size()),
      grad_bias(bias.size());
  std::vector<A> partials(sizes.B * strips * part);
  const ForwardArguments<T> forward{problem, image(residual.data(), channels), image(result.data(), channels),
                                    true};
  const BackwardArguments<T> backward{
      problem, image(grad.data(), channels), {strips, 1, strips}, grad_x.data(), partials.data(), true};
  for (int64_t b = 0; b < sizes.B; ++b) {
    for (int64_t block = 0; block * kChannelBlock < sizes.C / 2; ++block) {
      run_task(kernels.forward_scratch, kernels.forward, forward,
               ForwardTask{b, block, {0, sizes.H}, {0, sizes.W}});
      run_task(kernels.backward_scratch, kernels.backward, backward, BackwardTask{b, block, 0, {0, strips}});
    }
  }
  for (int64_t i = 0; i < sizes.S * (taps + 1); ++i) {
    const int64_t s = i / (taps + 1), tap = i % (taps + 1);
    T* to = tap < taps ? &grad_weight[(s * taps + tap) * sizes.C] : &grad_bias[s * sizes.C];
    kernels.reduce(&partials[i * sizes.C], sizes.B * strips, part, {0, sizes.C}, to);
  }
  for (const std::vector<T>* values : {&result, &grad_x, &grad_weight, &grad_bias}) {
    std::fwrite(values->data(), sizeof(T), values->size(), out);
  }
}

}  // namespace

int main(int, char** arguments) {
  FILE *in = std::fopen(arguments[1], "rb"), *out = std::fopen(arguments[2], "wb");
  const InstructionSet& kernels = baseline::kInstructionSet;
  Header header;
  while (std::fread(&header, sizeof(header), 1, in) == 1) {
    switch (header.dtype) {
      case 0: compute(kernels.float32, header, in, out); break;
      case 1: compute(kernels.float64, header, in, out); break;
      case 2: compute(kernels.float16, header, in, out); break;
      default: compute(kernels.bfloat16, header, in, out);
    }
  }
  return std::fclose(out);
}

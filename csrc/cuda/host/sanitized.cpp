// Runs the forward and the backward pass of one problem once on the host build, for AddressSanitizer and
// ThreadSanitizer to watch. Fails if an output or a gradient is not finite.
//
//   sanitized B H W C K factor,factor,... type(0 float32, 1 float16, 2 bfloat16) gate residual shared_per_block
//             [launch barrier]
//
// Prints how many barriers each launch has. With the two last numbers, that barrier of every thread of that launch does
// nothing, which ThreadSanitizer must notice.
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "cuda/device/device.h"
#include "cuda/host/buffer.h"
#include "cuda/host/run.h"

namespace deltaconv::cuda {
namespace {

HostImage dense_image(uintptr_t address, const Sizes& sizes, int64_t channels) {
  return {address, sizes.H * sizes.W * channels, sizes.W * channels, channels};
}

template <class T>
bool run(HostProblem problem, bool with_residual) {
  const Sizes& sizes = problem.plan.sizes;
  const int64_t pixels = sizes.B * sizes.H * sizes.W, width = sizes.S * sizes.C / 2;
  Buffer<T> x(pixels * sizes.C), weight(sizes.S * sizes.K * sizes.K * sizes.C), bias(sizes.S * sizes.C);
  Buffer<T> residual(pixels * width), grad(pixels * width), result(pixels * width);
  Buffer<T> grad_x(x.count), grad_weight(weight.count), grad_bias(bias.count);
  const BackwardPlan backward = backward_plan(problem.plan, problem.device);
  Buffer<float> workspace(backward.workspace.size);
  std::mt19937 generator(0);
  for (Buffer<T>* input : {&x, &weight, &bias, &residual, &grad}) input->randomise(generator);
  for (Buffer<T>* output : {&result, &grad_x, &grad_weight, &grad_bias}) output->poison();
  workspace.poison();

  problem.x = dense_image(x.address(), sizes, sizes.C);
  problem.weight = weight.address();
  problem.bias = bias.address();
  run_forward(problem, with_residual ? dense_image(residual.address(), sizes, width) : HostImage{}, result.address());
  run_backward(problem, dense_image(grad.address(), sizes, width),
               {grad_x.address(), grad_weight.address(), grad_bias.address(), workspace.address()});
  return result.finite() && grad_x.finite() && grad_weight.finite() && grad_bias.finite();
}

std::vector<int64_t> split(const std::string& list) {
  std::vector<int64_t> numbers;
  std::istringstream stream(list);
  for (std::string number; std::getline(stream, number, ',');) numbers.push_back(std::stoll(number));
  return numbers;
}

}  // namespace
}  // namespace deltaconv::cuda

int main(int count, char** arguments) {
  using namespace deltaconv::cuda;
  if (count != 11 && count != 13) {
    std::fprintf(stderr, "expected 10 or 12 arguments, got %d: see the head of sanitized.cpp\n", count - 1);
    return 2;
  }
  const auto number = [&](int i) { return std::stoll(arguments[i]); };
  HostProblem problem{};
  problem.plan.factors = split(arguments[6]);
  const auto stages = static_cast<int64_t>(problem.plan.factors.size());
  problem.plan.sizes = {number(1), number(2), number(3), number(4), stages, number(5)};
  problem.plan.type = static_cast<ElementType>(number(7));
  problem.gate = static_cast<int>(number(8));
  problem.gate_scale = 1.5;
  problem.device = {90, 132, number(10), 2 * number(10)};
  if (count == 13) {
    host::options.dropped_launch = number(11);
    host::options.dropped_barrier = number(12);
  }
  bool finite = false;
  with_type(problem.plan.type, [&](auto element) { finite = run<decltype(element)>(problem, number(9) != 0); });
  std::printf("barriers");
  for (const int64_t barriers : host::statistics.barriers) std::printf(" %lld", static_cast<long long>(barriers));
  std::printf("\n");
  if (!finite) std::fprintf(stderr, "a result is not finite\n");
  return finite ? 0 : 1;
}

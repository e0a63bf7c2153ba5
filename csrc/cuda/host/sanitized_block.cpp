// Runs the fused block once on the host build, for AddressSanitizer and ThreadSanitizer to watch. Fails if the result
// is not finite.
//
//   sanitized_block B H W dim inter K factor type(1 float16, 2 bfloat16) residual multiprocessors
//                   [launch barrier]
//
// Prints how many barriers each launch has. With the two last numbers, that barrier of every thread of that launch does
// nothing, which ThreadSanitizer must notice.
#include <cstdio>
#include <cstdlib>

#include "cuda/host/block.h"
#include "cuda/host/buffer.h"

namespace deltaconv::cuda {
namespace {

template <class T>
bool run(HostProblem pyramid, int64_t dim, bool with_residual) {
  const Sizes& sizes = pyramid.plan.sizes;
  const int64_t pixels = sizes.B * sizes.H * sizes.W, inter = sizes.C, local = sizes.S * inter / 2;
  Buffer<T> x(pixels * dim), residual(pixels * dim), weight(sizes.S * sizes.K * sizes.K * inter), bias(sizes.S * inter),
      in_weight(inter * dim), in_bias(inter), out_weight(dim * local), out_bias(dim), pool_weight(dim * dim),
      pool_bias(dim);
  const FusedBlockPlan plan = fused_block_plan({pyramid.plan, dim}, pyramid.device);
  Buffer<T> hidden(plan.hidden), between(pixels * local), result(pixels * dim);
  Buffer<float> workspace(plan.sums + plan.shifts);
  std::mt19937 generator(0);
  for (Buffer<T>* input :
       {&x, &residual, &weight, &bias, &in_weight, &in_bias, &out_weight, &out_bias, &pool_weight, &pool_bias}) {
    input->randomise(generator, 0.1f);  // so that no product leaves float16's range
  }
  for (Buffer<T>* output : {&hidden, &between, &result}) output->poison();
  workspace.poison();
  pyramid.weight = weight.address();
  pyramid.bias = bias.address();
  run_block(pyramid, dim,
            {x.address(), with_residual ? residual.address() : 0, in_weight.address(), in_bias.address(),
             out_weight.address(), out_bias.address(), pool_weight.address(), pool_bias.address(), hidden.address(),
             between.address(), result.address(), workspace.address()});
  return result.finite();
}

}  // namespace
}  // namespace deltaconv::cuda

int main(int count, char** arguments) {
  using namespace deltaconv;
  using namespace deltaconv::cuda;
  if (count != 11 && count != 13) {
    std::fprintf(stderr, "expected 10 or 12 arguments, got %d: see the head of sanitized_block.cpp\n", count - 1);
    return 2;
  }
  const auto number = [&](int i) { return std::stoll(arguments[i]); };
  HostProblem pyramid{};
  pyramid.plan.factors = {1, number(7)};
  pyramid.plan.sizes = {number(1), number(2), number(3), number(5), 2, number(6)};
  pyramid.plan.type = static_cast<ElementType>(number(8));
  pyramid.gate_scale = 1.5;
  pyramid.device = {90, static_cast<int32_t>(number(10)), 232448, 233472};
  if (count == 13) {
    host::options.dropped_launch = number(11);
    host::options.dropped_barrier = number(12);
  }
  const bool half = pyramid.plan.type == ElementType::kFloat16, residual = number(9) != 0;
  const bool finite = half ? run<Half>(pyramid, number(4), residual) : run<BFloat16>(pyramid, number(4), residual);
  std::printf("barriers");
  for (const int64_t barriers : host::statistics.barriers) std::printf(" %lld", static_cast<long long>(barriers));
  std::printf("\n");
  if (!finite) std::fprintf(stderr, "the result is not finite\n");
  return finite ? 0 : 1;
}

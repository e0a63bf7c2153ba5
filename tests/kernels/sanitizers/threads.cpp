// Stands for torch's thread pool under ThreadSanitizer: preloaded, its parallel_for takes the place of the one
// that the Stable ABI offers. OpenMP synchronises its threads in ways that ThreadSanitizer cannot see, and every
// result would be reported as a race; the starts and joins of std::thread it sees.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kThreads = 4;

}  // namespace

extern "C" {

int32_t torch_get_num_threads(uint32_t* count) {
  *count = kThreads;
  return 0;
}

// With DELTACONV_SEEDED_RACE in the environment, every thread is given what the first one works on as well.
int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain, void (*run)(int64_t, int64_t, void*),
                           void* context) {
  const bool overlap = std::getenv("DELTACONV_SEEDED_RACE") != nullptr;
  const int64_t size = std::max(grain, (end - begin + kThreads - 1) / kThreads);
  std::vector<std::thread> threads;
  for (int64_t first = begin; first < end; first += size) {
    threads.emplace_back(run, overlap ? begin : first, std::min(first + size, end), context);
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

}

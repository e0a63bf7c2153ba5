// The fibers of host.h. This file is compiled without ThreadSanitizer's instrumentation, because the fibers share its
// state. It tells ThreadSanitizer of fibers and barriers by hand where DELTACONV_TSAN is defined.
#include <sys/mman.h>
#include <ucontext.h>

#include <memory>

#include "cuda/device/device.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(DELTACONV_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace deltaconv::cuda::host {

Thread* thread = nullptr;
RunningBlock block{};
Options options;
Statistics statistics;
std::function<void(const LaunchRequest&)> launcher;

namespace {

constexpr size_t kStackBytes = 256 * 1024;  // sanitizers pad every frame

#if defined(DELTACONV_TSAN)
void acquire(void* address) { __tsan_acquire(address); }
void release(void* address) { __tsan_release(address); }
#else
void acquire(void*) {}
void release(void*) {}
#endif

// Threads that wait for each other: those of the CTA, or those of a warp.
struct Barrier {
  int arrived = 0;
  int64_t generation = 0;
  // Addresses that stand for every other generation in ThreadSanitizer's clocks: a thread that has yet to leave one
  // generation must not learn of a thread that has already arrived at the next.
  char clocks[2] = {};
};

struct Fiber {
  Thread thread;
  ucontext_t context;
  void* stack = nullptr;
  const Barrier* waits_for = nullptr;  // runnable once the barrier's generation has passed `generation`
  int64_t generation = 0;
  bool finished = false;
  void* tsan = nullptr;
};

struct Warp {
  Barrier barrier;
  alignas(16) std::byte slots[2][kWarp * kSlotBytes];
};

std::vector<std::unique_ptr<Fiber>> fibers;  // grows to the largest CTA seen
std::vector<Warp> warps;
Barrier block_barrier;
char block_start, block_end;  // addresses that stand for these events in ThreadSanitizer's clocks
Fiber main_fiber;
Fiber* running = &main_fiber;
int unfinished = 0;
void (*entry)(const void*);
const void* entry_arguments;

void arrived_from_switch(void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
  (void)fake_stack;
#endif
}

void switch_to(Fiber& next) {
  Fiber& previous = *running;
  running = &next;
  thread = &next == &main_fiber ? nullptr : &next.thread;
  void* fake_stack = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  static const void* main_bottom = nullptr;
  static size_t main_size = 0;
  if (&previous == &main_fiber) {
    pthread_attr_t attributes;
    void* bottom = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &main_size);
    pthread_attr_destroy(&attributes);
    main_bottom = bottom;
  }
  __sanitizer_start_switch_fiber(previous.finished ? nullptr : &fake_stack, next.stack ? next.stack : main_bottom,
                                 next.stack ? kStackBytes : main_size);
#endif
#if defined(DELTACONV_TSAN)
  constexpr unsigned kDoNotSynchronise = 1;
  __tsan_switch_to_fiber(next.tsan, kDoNotSynchronise);
#endif
  swapcontext(&previous.context, &next.context);
  arrived_from_switch(fake_stack);
}

bool runnable(const Fiber& fiber) {
  if (fiber.finished) return false;
  return fiber.waits_for == nullptr || fiber.waits_for->generation > fiber.generation;
}

// Runs another thread of the CTA until this one may go on.
void give_way() {
  const int mine = running->thread.index;
  for (int i = 1; i <= block.threads; ++i) {
    Fiber& next = *fibers[(mine + i) % block.threads];
    if (!runnable(next)) continue;
    if (&next != running) switch_to(next);
    return;
  }
  fail("a barrier that not every thread of the block or warp reaches");
}

void pass(Barrier& barrier) {
  barrier.arrived = 0;
  ++barrier.generation;
}

void wait(Barrier& barrier) {
  running->waits_for = &barrier;
  running->generation = barrier.generation;
  give_way();
  running->waits_for = nullptr;
}

void fiber_main() {
  arrived_from_switch(nullptr);
  acquire(&block_start);
  entry(entry_arguments);
  const auto holds_copies = [](const std::vector<AsyncCopy>& group) { return !group.empty(); };
  if (std::any_of(thread->pending.begin(), thread->pending.end(), holds_copies) || holds_copies(thread->uncommitted)) {
    fail("async copies in flight at the end");
  }
  int64_t& barriers = statistics.barriers.back();
  barriers = std::max(barriers, thread->barriers);
  release(&block_end);
  running->finished = true;
  if (--unfinished == 0) {
    switch_to(main_fiber);
  } else {
    give_way();
  }
}

Fiber& fiber_at(int index) {
  if (index == static_cast<int>(fibers.size())) {
    auto fiber = std::make_unique<Fiber>();
    fiber->thread.index = index;
    fiber->stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fiber->stack == MAP_FAILED) fail("no memory for a fiber's stack");
#if defined(DELTACONV_TSAN)
    fiber->tsan = __tsan_create_fiber(0);
#endif
    fibers.push_back(std::move(fiber));
  }
  return *fibers[index];
}

void start(Fiber& fiber) {
  fiber.thread.barriers = 0;
  fiber.finished = false;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
}

void run_block(const Grid& grid, int64_t index) {
  // The memory is exactly as large as the launch asks for, so that AddressSanitizer sees what lies beyond.
  const size_t bytes = static_cast<size_t>(grid.shared_bytes);
  std::unique_ptr<void, decltype(&std::free)> shared(nullptr, &std::free);
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, bytes) != 0) fail("no memory for a block's shared memory");
  shared.reset(memory);
  std::memset(memory, 0xff, bytes);  // NaN in every storage type
  block = {index, grid.blocks, grid.threads, static_cast<std::byte*>(memory)};
  block_barrier = {};
  warps.resize(static_cast<size_t>((grid.threads + kWarp - 1) / kWarp));
  for (Warp& warp : warps) warp.barrier = {};
  for (int i = 0; i < grid.threads; ++i) start(fiber_at(i));
  unfinished = grid.threads;
  release(&block_start);
  switch_to(*fibers[0]);
  acquire(&block_end);
}

bool drops_in_this_launch() {
  return options.dropped_launch < 0 || options.dropped_launch == static_cast<int64_t>(statistics.barriers.size()) - 1;
}

}  // namespace

void wait_for_block() {
  if (thread->barriers++ == options.dropped_barrier && drops_in_this_launch()) return;
  char* clock = &block_barrier.clocks[block_barrier.generation % 2];
  release(clock);
  if (++block_barrier.arrived == block.threads) {
    pass(block_barrier);
  } else {
    wait(block_barrier);
  }
  acquire(clock);
}

bool arrive_last_in_warp() {
  Barrier& barrier = warps[thread->index / kWarp].barrier;
  if (++barrier.arrived == kWarp) return true;
  wait(barrier);
  return false;
}

void release_warp() { pass(warps[thread->index / kWarp].barrier); }

void wait_for_warp() {
  Barrier& barrier = warps[thread->index / kWarp].barrier;
  char* clock = &barrier.clocks[barrier.generation % 2];
  release(clock);
  if (arrive_last_in_warp()) release_warp();
  acquire(clock);
}

std::byte* warp_slots() {
  Warp& warp = warps[thread->index / kWarp];
  return warp.slots[warp.barrier.generation % 2];
}

void run_grid(const Grid& grid, void (*kernel)(const void*), const void* arguments) {
  if (grid.threads % kWarp != 0) fail("a block of incomplete warps");
  entry = kernel;
  statistics.barriers.push_back(0);
  entry_arguments = arguments;
#if defined(DELTACONV_TSAN)
  main_fiber.tsan = __tsan_get_current_fiber();
#endif
  for (int64_t i = 0; i < grid.blocks; ++i) run_block(grid, options.descending ? grid.blocks - 1 - i : i);
}

#if defined(DELTACONV_TSAN)
UntracedExchange::UntracedExchange() {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
UntracedExchange::~UntracedExchange() {
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
#else
UntracedExchange::UntracedExchange() = default;
UntracedExchange::~UntracedExchange() = default;
#endif

}  // namespace deltaconv::cuda::host

// The machine that runs kernels on the CPU: blocks one after the other, the threads of a block as cooperating fibers.
//
// A thread runs until it meets a barrier or ends; only then the next one runs, in the chosen order (forward, reverse,
// shuffled anew after each barrier). So a result that depends on the order shows where a barrier is missing. Shared memory
// is allocated to the byte and filled with NaN (-1) before each block. Barriers that not all threads meet, at the same
// line, are errors, and so are launches that no GPU would take. Nothing here knows torch.
#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Those of the thread that runs now.
inline dim3 gridDim, blockDim;
inline uint3 blockIdx, threadIdx;

namespace cuda_shim {

enum class Order : int { forward, reverse, shuffled };

constexpr int kWarp = 32;
constexpr size_t kStack = size_t(1) << 18;
constexpr size_t kStaticShared = 48 << 10;  // what a block may have without asking for more

[[noreturn]] inline void fail(const std::string& sentence) { throw std::runtime_error("CUDA on the CPU: " + sentence); }

// A flow of control with a stack of its own (that of the caller of `launch`, for the scheduler).
struct Fiber {
  jmp_buf where;
  ucontext_t start;
  const void* stack = nullptr;
  size_t size = 0;
  bool begun = false;
};

enum class State { fresh, ready, at_barrier, at_warp_barrier, ended };

struct Thread {
  State state = State::fresh;
  Fiber* fiber = nullptr;
  uint3 index{};
  const char* file = nullptr;  // of the barrier it waits at
  int line = 0;
  unsigned mask = 0;  // of the warp's lanes it waits for
  alignas(16) unsigned char slot[16] = {};  // what it shows the other lanes of its warp
};

struct Machine {
  Order order = Order::forward;
  int64_t launches = 0, atomics = 0;
  std::mt19937 random{1};
  Fiber scheduler;
  std::vector<std::unique_ptr<Fiber>> workers;  // kept for ever: a stack each
  std::vector<Fiber*> idle;
  std::vector<Thread> threads;
  std::vector<int> turns;  // the numbers of the threads in the order they run in
  int current = 0;
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
  struct Shared {
    const void* key;
    unsigned char* bytes;
    size_t size;
  };
  std::vector<Shared> shared;
  unsigned char* dynamic = nullptr;
};
inline Machine machine;

// ---- fibers --------------------------------------------------------------------------------------------------------

// Goes on in `to`, until something goes on in `from`. After the first time by setjmp, which makes no system call.
inline void switch_fiber(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, to.stack, to.size);
#endif
  if (_setjmp(from.where) == 0) {
    if (to.begun) _longjmp(to.where, 1);
    to.begun = true;
    setcontext(&to.start);
  }
#if defined(__SANITIZE_ADDRESS__)
  const bool worker = &from != &machine.scheduler;
  __sanitizer_finish_switch_fiber(fake, worker ? &machine.scheduler.stack : nullptr,
                                  worker ? &machine.scheduler.size : nullptr);
#endif
}

// What every worker runs: one thread of a block after the other.
inline void work() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler.stack, &machine.scheduler.size);
#endif
  for (;;) {
    machine.body(machine.arguments);
    Thread& thread = machine.threads[machine.current];
    thread.state = State::ended;
    switch_fiber(*thread.fiber, machine.scheduler);
  }
}

inline Fiber* new_worker() {
  machine.workers.push_back(std::make_unique<Fiber>());
  Fiber* fiber = machine.workers.back().get();
  void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) fail("no memory for the stack of a thread");
  mprotect(stack, 4096, PROT_NONE);  // an overflow must not reach the next stack
  fiber->stack = stack;
  fiber->size = kStack;
  getcontext(&fiber->start);
  fiber->start.uc_stack.ss_sp = stack;
  fiber->start.uc_stack.ss_size = kStack;
  fiber->start.uc_link = nullptr;
  makecontext(&fiber->start, &work, 0);
  return fiber;
}

inline void resume(int number) {
  Thread& thread = machine.threads[number];
  if (!thread.fiber) {
    if (machine.idle.empty()) machine.idle.push_back(new_worker());
    thread.fiber = machine.idle.back();
    machine.idle.pop_back();
  }
  machine.current = number;
  thread.state = State::ready;
  threadIdx = thread.index;
  machine.scheduler.begun = true;
  switch_fiber(machine.scheduler, *thread.fiber);
  if (thread.state == State::ended) {
    machine.idle.push_back(thread.fiber);
    thread.fiber = nullptr;
  }
}

// ---- barriers ------------------------------------------------------------------------------------------------------

inline void wait_as(State state, const char* file, int line, unsigned mask) {
  Thread& thread = machine.threads[machine.current];
  thread.state = state;
  thread.file = file;
  thread.line = line;
  thread.mask = mask;
  switch_fiber(*thread.fiber, machine.scheduler);
}

inline std::string place(const Thread& thread) { return std::string(thread.file) + ":" + std::to_string(thread.line); }

// Lets the warps go on of which every lane that is waited for is there. True where one could.
inline bool release_warps() {
  bool any = false;
  const int count = static_cast<int>(machine.threads.size());
  for (int first = 0; first < count; first += kWarp) {
    for (int n = first; n < first + kWarp && n < count; ++n) {
      const Thread& thread = machine.threads[n];
      if (thread.state != State::at_warp_barrier) continue;
      bool all = (thread.mask >> (n - first)) & 1;
      if (!all) fail("a thread is not in its own mask at " + place(thread));
      for (int lane = 0; lane < kWarp; ++lane) {
        if (!((thread.mask >> lane) & 1)) continue;
        const int other = first + lane;
        if (other >= count || machine.threads[other].state == State::ended)
          fail("a mask names a thread that has ended at " + place(thread));
        const Thread& there = machine.threads[other];
        all = all && there.state == State::at_warp_barrier && there.mask == thread.mask;
        if (all && (there.line != thread.line || there.file != thread.file))
          fail("the lanes of a warp wait at " + place(thread) + " and at " + place(there));
      }
      if (!all) continue;
      const unsigned mask = thread.mask;
      for (int lane = 0; lane < kWarp; ++lane)
        if ((mask >> lane) & 1) machine.threads[first + lane].state = State::ready;
      any = true;
    }
  }
  return any;
}

// Lets the whole block go on, all of whose threads must wait at one and the same barrier.
inline void release_block() {
  const Thread* waiting = nullptr;
  for (const Thread& thread : machine.threads)
    if (thread.state != State::ended) waiting = &thread;
  for (Thread& thread : machine.threads) {
    if (thread.state != State::at_barrier || thread.line != waiting->line || thread.file != waiting->file)
      fail("not all threads of a block come to the barrier at " + place(*waiting));
  }
  for (Thread& thread : machine.threads) thread.state = State::ready;
}

inline void barrier(const char* file, int line) { wait_as(State::at_barrier, file, line, 0); }

inline void warp_barrier(unsigned mask, const char* file, int line) {
  wait_as(State::at_warp_barrier, file, line, mask);
}

// ---- launches ------------------------------------------------------------------------------------------------------

inline void order_turns() {
  const int count = static_cast<int>(machine.threads.size());
  machine.turns.resize(count);
  for (int n = 0; n < count; ++n) machine.turns[n] = machine.order == Order::reverse ? count - 1 - n : n;
  if (machine.order == Order::shuffled) std::shuffle(machine.turns.begin(), machine.turns.end(), machine.random);
}

inline void run_block() {
  for (unsigned z = 0, n = 0; z < blockDim.z; ++z)
    for (unsigned y = 0; y < blockDim.y; ++y)
      for (unsigned x = 0; x < blockDim.x; ++x, ++n) {
        machine.threads[n].state = State::fresh;
        machine.threads[n].index = {x, y, z};
      }
  for (auto& each : machine.shared) std::memset(each.bytes, 0xff, each.size);
  for (;;) {
    order_turns();
    bool ended = true;
    for (const int n : machine.turns) {
      const State state = machine.threads[n].state;
      if (state == State::fresh || state == State::ready) resume(n);
      ended = ended && machine.threads[n].state == State::ended;
    }
    if (ended) return;
    if (!release_warps()) release_block();
  }
}

// Frees the shared memory of a launch however it ends; threads that wait when it fails keep their stacks for good.
struct Clean {
  ~Clean() {
    for (auto& each : machine.shared) std::free(each.bytes);
    machine.shared.clear();
    machine.threads.clear();
    machine.dynamic = nullptr;
  }
};

template <typename Array>
Array& shared(const void* key) {
  for (auto& each : machine.shared)
    if (each.key == key) return *reinterpret_cast<Array*>(each.bytes);
  size_t sum = sizeof(Array);
  for (auto& each : machine.shared) sum += each.size;
  if (sum > kStaticShared) fail("a block has more than 48 KiB of shared memory");
  auto* bytes = static_cast<unsigned char*>(std::malloc(sizeof(Array)));
  std::memset(bytes, 0xff, sizeof(Array));
  machine.shared.push_back({key, bytes, sizeof(Array)});
  return *reinterpret_cast<Array*>(bytes);
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const uint64_t count = uint64_t(block.x) * block.y * block.z;
  if (count == 0 || count > 1024 || block.z > 64) fail("a block has 1 to 1024 threads, 64 in z");
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) fail("a grid has 2^31 - 1 blocks in x, 65535 in y and z");
  if (shared_bytes > kStaticShared) fail("a launch asks for more than 48 KiB of shared memory");
  if (!machine.threads.empty()) fail("one launch at a time");
  const Clean clean;
  machine.threads.assign(count, Thread{});
  if (shared_bytes) {
    machine.dynamic = static_cast<unsigned char*>(std::malloc(shared_bytes));
    machine.shared.push_back({&machine.dynamic, machine.dynamic, shared_bytes});
  }
  using Call = std::pair<void (*)(Parameters...), std::tuple<Parameters...>>;
  Call call{kernel, std::tuple<Parameters...>(arguments...)};
  machine.arguments = &call;
  machine.body = [](void* given) {
    const Call& wanted = *static_cast<Call*>(given);
    std::apply(wanted.first, wanted.second);
  };
  gridDim = grid;
  blockDim = block;
  ++machine.launches;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block();
      }
}

}  // namespace cuda_shim

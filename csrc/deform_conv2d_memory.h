// The memory of deform_conv2d's CPU kernels: where it starts, which pages it has, what is kept.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace msr::deform {
namespace {

// Memory that starts at a cache line, so that no vector of it lies across two: a fifth of the time of a product.
template <typename T>
struct CacheLines {
  using value_type = T;
  CacheLines() = default;
  template <typename U>
  CacheLines(const CacheLines<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* memory, size_t) { ::operator delete(memory, std::align_val_t{64}); }
  // Also the deleter of a buffer.
  void operator()(T* memory) const { ::operator delete(memory, std::align_val_t{64}); }
  friend bool operator==(const CacheLines&, const CacheLines&) { return true; }
  friend bool operator!=(const CacheLines&, const CacheLines&) { return false; }
};

template <typename T>
using Vector = std::vector<T, CacheLines<T>>;
template <typename T>
using Buffer = std::unique_ptr<T[], CacheLines<T>>;

// Asks for pages of 2 MB for memory that is about to be written for the first time: 4 KB at a time, the system takes as long
// to hand it out as the kernel to fill it. Only where it is so much that it goes back to the system when it is freed.
inline void ask_for_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes)) / page * page;
  if (bytes >= int64_t{32} << 20) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Not initialised.
template <typename T>
Buffer<T> buffer(int64_t count) {
  Buffer<T> memory(CacheLines<T>().allocate(static_cast<size_t>(count)));
  ask_for_large_pages(memory.get(), count * static_cast<int64_t>(sizeof(T)));
  return memory;
}

// Memory that a thread keeps for its next call, as fresh pages cost more than what is written to them here.
template <typename T>
T* kept(int64_t count) {
  static thread_local Buffer<T> memory;
  static thread_local int64_t size = 0;
  constexpr int64_t most = (int64_t{64} << 20) / sizeof(T);
  if (size < count || (size > most && size > 2 * count)) {
    memory = nullptr;
    memory = buffer<T>(count);
    size = count;
  }
  return memory.get();
}

}  // namespace
}  // namespace msr::deform

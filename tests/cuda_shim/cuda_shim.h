// The language of .cu files in plain C++: keywords, vector types, barriers, warps and atomics, run by machine.h.
#pragma once

#include <type_traits>

#include "machine.h"

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

// The same shape of declaration as in common.h.
#define MSR_SHARED(type, name, ...) \
  static char name##_key;           \
  type(&name) __VA_ARGS__ = ::cuda_shim::shared<type __VA_ARGS__>(&name##_key)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace cuda_shim {

// ---- warps ---------------------------------------------------------------------------------------------------------

inline int lane() { return machine.current % kWarp; }

// Shows `value` to the warp and returns what the lane `from` of it shows.
template <typename T>
T exchange(unsigned mask, T value, int from, const char* file, int line) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
  const int first = machine.current / kWarp * kWarp;
  std::memcpy(machine.threads[machine.current].slot, &value, sizeof(T));
  warp_barrier(mask, file, line);
  T got;
  std::memcpy(&got, machine.threads[first + from].slot, sizeof(T));
  warp_barrier(mask, file, line);  // all have read before a slot is written again
  if (!((mask >> from) & 1)) fail("a lane outside of the mask is read");
  return got;
}

template <typename T>
T shuffle(unsigned mask, T value, int from, int width, const char* file, int line) {
  const int base = lane() / width * width;
  return exchange(mask, value, from >= base && from < base + width ? from : lane(), file, line);
}

inline unsigned ballot(unsigned mask, bool predicate, const char* file, int line) {
  const int first = machine.current / kWarp * kWarp;
  machine.threads[machine.current].slot[0] = predicate;
  warp_barrier(mask, file, line);
  unsigned votes = 0;
  for (int n = 0; n < kWarp; ++n)
    if ((mask >> n) & 1) votes |= unsigned(machine.threads[first + n].slot[0]) << n;
  warp_barrier(mask, file, line);
  return votes;
}

template <typename T, typename Change>
T atomically(T* at, const Change& change) {
  ++machine.atomics;
  const T old = *at;
  *at = change(old);
  return old;
}

}  // namespace cuda_shim

// Macros, so that the line of the call is known. Where a __shfl has no width, 32 is it.
#define __syncthreads() ::cuda_shim::barrier(__FILE__, __LINE__)
#define __syncwarp(...) ::cuda_shim::warp_barrier(::cuda_shim::mask_of(__VA_ARGS__), __FILE__, __LINE__)
#define __shfl_sync(...) ::cuda_shim::at(__FILE__, __LINE__).to(__VA_ARGS__)
#define __shfl_up_sync(...) ::cuda_shim::at(__FILE__, __LINE__).up(__VA_ARGS__)
#define __shfl_down_sync(...) ::cuda_shim::at(__FILE__, __LINE__).down(__VA_ARGS__)
#define __shfl_xor_sync(...) ::cuda_shim::at(__FILE__, __LINE__).cross(__VA_ARGS__)
#define __ballot_sync(mask, predicate) ::cuda_shim::ballot(mask, predicate, __FILE__, __LINE__)
#define __any_sync(mask, predicate) (::cuda_shim::ballot(mask, predicate, __FILE__, __LINE__) != 0)
#define __all_sync(mask, predicate) (::cuda_shim::ballot(mask, predicate, __FILE__, __LINE__) == (mask))

namespace cuda_shim {

inline unsigned mask_of(unsigned mask = 0xffffffffu) { return mask; }

struct at {
  const char* file;
  int line;
  at(const char* file, int line) : file(file), line(line) {}

  template <typename T>
  T to(unsigned mask, T value, int from, int width = kWarp) const {
    return shuffle(mask, value, lane() / width * width + from % width, width, file, line);
  }
  template <typename T>
  T up(unsigned mask, T value, unsigned by, int width = kWarp) const {
    return shuffle(mask, value, lane() - static_cast<int>(by), width, file, line);
  }
  template <typename T>
  T down(unsigned mask, T value, unsigned by, int width = kWarp) const {
    return shuffle(mask, value, lane() + static_cast<int>(by), width, file, line);
  }
  template <typename T>
  T cross(unsigned mask, T value, int bits, int width = kWarp) const {
    return shuffle(mask, value, lane() ^ bits, width, file, line);
  }
};

}  // namespace cuda_shim

template <typename T>
T atomicAdd(T* at, T value) {
  return cuda_shim::atomically(at, [&](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicMax(T* at, T value) {
  return cuda_shim::atomically(at, [&](T old) { return old > value ? old : value; });
}
template <typename T>
T atomicMin(T* at, T value) {
  return cuda_shim::atomically(at, [&](T old) { return old < value ? old : value; });
}
template <typename T>
T atomicExch(T* at, T value) {
  return cuda_shim::atomically(at, [&](T) { return value; });
}
template <typename T>
T atomicCAS(T* at, T compare, T value) {
  return cuda_shim::atomically(at, [&](T old) { return old == compare ? value : old; });
}
template <typename T>
T __ldg(const T* from) {
  return *from;
}
inline void __threadfence() {}

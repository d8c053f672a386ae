// How splat.cu adds up: as floats, or as whole numbers where the result must be the same in every run; and how it finds the
// largest of floats by the atomic operations that there are.
#pragma once

#include "splat.h"

#include <cstring>
#include <type_traits>

namespace msr::splat {

// A sum as a whole number: kZero stands for 0, and everything from kNotFinite on for NaN. The true sums stay below 2^60.
constexpr unsigned long long kZero = 1ull << 61, kNotFinite = 3ull << 61;

// Units of a deterministic sum: `most` is the largest addend, of which at most 4 a pixel fall on one place.
__device__ __forceinline__ double unit_of(double most, int64_t pixels) {
  if (!(most > 0)) return 1;
  int exponent, count;
  frexp(most, &exponent);
  frexp(4.0 * static_cast<double>(pixels), &count);
  return ldexp(1.0, exponent + count - 60);
}

template <typename C>
struct Floats {
  using type = C;
  static constexpr bool kDeterministic = false;
  __device__ __forceinline__ void add(C* sum, C value) const { atomicAdd(sum, value); }
  __device__ __forceinline__ C value(C sum) const { return sum; }
};

template <typename C>
struct Fixed {
  using type = unsigned long long;
  static constexpr bool kDeterministic = true;
  double unit;
  __device__ __forceinline__ void add(type* sum, C value) const {
    if (value - value == C(0))
      atomicAdd(sum, static_cast<type>(llrint(static_cast<double>(value) / unit)));
    else
      atomicMax(sum, 7ull << 61);  // far enough from kNotFinite: no finite sum brings it below
  }
  __device__ __forceinline__ C value(type sum) const {
    if (sum >= kNotFinite) return static_cast<C>(NAN);
    return static_cast<C>(static_cast<double>(static_cast<int64_t>(sum - kZero)) * unit);
  }
};

// The units of the sums of features and of divisors, from what the passes before found to be the largest addends.
template <typename Sums>
__device__ __forceinline__ Sums sums_of(double most, int64_t pixels) {
  if constexpr (Sums::kDeterministic)
    return Sums{unit_of(most, pixels)};
  else
    return Sums{};
}

// Floats as unsigned integers of the same order, larger than the 0 that memory is filled with.
template <typename C>
using Bits = std::conditional_t<sizeof(C) == 8, unsigned long long, unsigned int>;

template <typename C>
__device__ __forceinline__ Bits<C> ordered(C value) {
  Bits<C> bits;
  memcpy(&bits, &value, sizeof(C));
  constexpr Bits<C> kSign = Bits<C>(1) << (8 * sizeof(C) - 1);
  return bits & kSign ? ~bits : bits | kSign;
}

template <typename C>
__device__ __forceinline__ C disordered(Bits<C> bits) {
  constexpr Bits<C> kSign = Bits<C>(1) << (8 * sizeof(C) - 1);
  if (bits == 0) return -std::numeric_limits<C>::infinity();
  bits = bits & kSign ? bits & ~kSign : ~bits;
  C value;
  memcpy(&value, &bits, sizeof(C));
  return value;
}

}  // namespace msr::splat

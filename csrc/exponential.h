// The exponential function in loops that should become vector code.
#pragma once

#include "common.h"

#include <cmath>

namespace msr {

// 2^x to the precision of float, without a branch or a call so that loops over it become vector code.
MSR_HOST_DEVICE float power_of_two(float x) {
  x = x < 127.0f ? x : 127.0f;
  x = x > -126.0f ? x : -126.0f;
  // So large a number that its last bit counts ones: the sum ends in the whole number next to x.
  const float large = 12582912.0f, sum = x + large;
  const float rest = x - (sum - large);
  // The polynomial of degree 5, exact at 0, that differs least from 2^rest for |rest| up to a half: by 1e-7 of it.
  float power = 0.00132647273f;
  power = power * rest + 0.00967151299f;
  power = power * rest + 0.0555073358f;
  power = power * rest + 0.240222424f;
  power = power * rest + 0.693147004f;
  power = power * rest + 1.0f;
  // Its exponent is raised by that whole number.
  unsigned bits, steps;
  std::memcpy(&bits, &power, sizeof(bits));
  std::memcpy(&steps, &sum, sizeof(steps));
  bits += steps << 23;
  std::memcpy(&power, &bits, sizeof(power));
  return power;
}
MSR_HOST_DEVICE double power_of_two(double x) { return std::exp2(x); }

// 2^x, and 0 where it would be smaller than the smallest normal number: where nothing is left of a weight.
template <typename C>
MSR_HOST_DEVICE C weight_of_two(C x) {
  return x < C(sizeof(C) == 4 ? -126 : -1022) ? C(0) : power_of_two(x);
}

}  // namespace msr

// The exponential function in loops that should become vector code.
#pragma once

#include "common.h"

#include <cmath>

namespace msr {

// e^x to the precision of float, without a branch or a call so that loops over it become vector code.
MSR_HOST_DEVICE float exponential(float x) {
  x = x < 88.0f ? x : 88.0f;
  x = x > -87.0f ? x : -87.0f;
  const float steps = std::floor(x * 1.44269504f + 0.5f);
  const float rest = (x - steps * 0.693359375f) + steps * 2.12194440e-4f;  // ln 2 in two parts
  // Taylor's series around 0, in which |rest| is at most ln 2 / 2.
  float power = 1.0f / 5040.0f;
  power = power * rest + 1.0f / 720.0f;
  power = power * rest + 1.0f / 120.0f;
  power = power * rest + 1.0f / 24.0f;
  power = power * rest + 1.0f / 6.0f;
  power = power * rest + 0.5f;
  power = power * rest + 1.0f;
  power = power * rest + 1.0f;
  const int bits = (static_cast<int>(steps) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return power * scale;
}
MSR_HOST_DEVICE double exponential(double x) { return std::exp(x); }

// 2^x likewise, in fewer steps.
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

}  // namespace msr

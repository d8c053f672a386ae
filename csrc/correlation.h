// correlation: the sizes of a call, and which pixels belong to a shift, shared by CPU and CUDA.
#pragma once

#include "common.h"

namespace msr::correlation {

struct Sizes {
  int64_t batch, channels, height, width, radius, stride, dilation, out_height, out_width;

  MSR_HOST_DEVICE int64_t side() const { return 2 * radius + 1; }
  MSR_HOST_DEVICE int64_t shifts() const { return side() * side(); }
  MSR_HOST_DEVICE int64_t reach() const { return radius * dilation; }
  MSR_HOST_DEVICE int64_t pixels() const { return height * width; }
  MSR_HOST_DEVICE int64_t out_pixels() const { return out_height * out_width; }
  // Where on its axis shift n (0..2r) of output `place` reads b.
  MSR_HOST_DEVICE int64_t shifted(int64_t place, int64_t n) const { return place * stride + (n - radius) * dilation; }
};

// The output on an axis of `count` whose shift n reads b at `position`, or -1 where none does.
MSR_HOST_DEVICE int64_t output_of(const Sizes& s, int64_t position, int64_t n, int64_t count) {
  const int64_t place = position - (n - s.radius) * s.dilation;
  return place >= 0 && place % s.stride == 0 && place / s.stride < count ? place / s.stride : -1;
}

inline Sizes sizes(const Tensor& a, const Tensor& b, int64_t radius, int64_t stride, int64_t dilation) {
  MSR_CHECK(a.dim() == 4 && b.dim() == 4 && a.size(0) == b.size(0) && a.size(1) == b.size(1) && a.size(2) == b.size(2) &&
                a.size(3) == b.size(3) && a.scalar_type() == b.scalar_type(),
            "correlation needs a and b (B, C, H, W) of one shape and dtype, got ", describe(a), " and ", describe(b));
  MSR_CHECK(radius >= 0 && stride >= 1 && dilation >= 1, "correlation got radius ", radius, ", stride ", stride,
            ", dilation ", dilation);
  return {a.size(0), a.size(1), a.size(2), a.size(3), radius, stride, dilation, (a.size(2) + stride - 1) / stride,
          (a.size(3) + stride - 1) / stride};
}

inline void check_grad(const Tensor& grad, const Sizes& s) {
  MSR_CHECK(grad.dim() == 4 && grad.size(0) == s.batch && grad.size(1) == s.shifts() && grad.size(2) == s.out_height &&
                grad.size(3) == s.out_width,
            "correlation_backward needs grad (B, (2r + 1)^2, Ho, Wo), got ", describe(grad));
}

}  // namespace msr::correlation

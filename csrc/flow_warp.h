// flow_warp, the maths of one axis, shared by CPU and CUDA: which pixels a position reads, and with which weights.
#pragma once

#include "common.h"

#include <cmath>
#include <type_traits>

namespace msr::flow_warp {

// Pixels read along an axis: 1 nearest, 2 bilinear, 4 bicubic. This number is the template parameter K below.
inline int taps_of(const std::string& interpolation) {
  if (interpolation == "nearest") return 1;
  if (interpolation == "bilinear") return 2;
  MSR_CHECK(interpolation == "bicubic", "flow_warp: unknown interpolation ", interpolation);
  return 4;
}

inline bool is_border(const std::string& padding_mode) {
  MSR_CHECK(padding_mode == "border" || padding_mode == "zeros", "flow_warp: unknown padding_mode ", padding_mode);
  return padding_mode == "border";
}

template <int K, typename C>
struct Taps {
  int64_t index[K];  // always within the image
  bool inside[K];    // whether it is read at all; otherwise it counts as 0
  C weight[K];
  C slope[K];  // d weight / d position
};

template <typename C>
MSR_HOST_DEVICE C cubic_near(C t) {  // Keys, a = -0.75, distances 0..1
  return (C(1.25) * t - C(2.25)) * t * t + C(1);
}
template <typename C>
MSR_HOST_DEVICE C cubic_far(C t) {  // distances 1..2
  return ((C(-0.75) * t + C(3.75)) * t - C(6)) * t + C(3);
}
template <typename C>
MSR_HOST_DEVICE C cubic_near_slope(C t) {
  return (C(3.75) * t - C(4.5)) * t;
}
template <typename C>
MSR_HOST_DEVICE C cubic_far_slope(C t) {
  return (C(-2.25) * t + C(7.5)) * t - C(6);
}

// Three pixels outside of the image no tap reaches it: a position further out, or NaN, is moved there, so that it fits an
// integer. The comparison is false for NaN.
template <typename C>
MSR_HOST_DEVICE C bounded(C position, int64_t size) {
  const C low = C(-3), high = static_cast<C>(size + 2);
  position = position > low ? position : low;
  return position < high ? position : high;
}

template <int K, typename C>
MSR_HOST_DEVICE Taps<K, C> taps(C position, int64_t size, bool border) {
  Taps<K, C> result;
  position = bounded(position, size);
  const C first = K == 1 ? std::rint(position) : std::floor(position);
  const C t = position - first;
  if constexpr (K == 1) {
    result.weight[0] = C(1);
    result.slope[0] = C(0);
  } else if constexpr (K == 2) {
    result.weight[0] = C(1) - t;
    result.weight[1] = t;
    result.slope[0] = C(-1);
    result.slope[1] = C(1);
  } else {
    result.weight[0] = cubic_far(C(1) + t);
    result.weight[1] = cubic_near(t);
    result.weight[2] = cubic_near(C(1) - t);
    result.weight[3] = cubic_far(C(2) - t);
    result.slope[0] = cubic_far_slope(C(1) + t);
    result.slope[1] = cubic_near_slope(t);
    result.slope[2] = -cubic_near_slope(C(1) - t);
    result.slope[3] = -cubic_far_slope(C(2) - t);
  }
  const int64_t start = static_cast<int64_t>(first) - (K == 4);
  for (int k = 0; k < K; ++k) {
    const int64_t index = start + k;
    result.inside[k] = border || (index >= 0 && index < size);
    result.index[k] = index < 0 ? 0 : index < size ? index : size - 1;
  }
  // Where every tap reads the same border pixel moving changes nothing: exactly, not up to rounding.
  if (border && result.index[0] == result.index[K - 1])
    for (int k = 0; k < K; ++k) result.slope[k] = C(0);
  return result;
}

// Where the flow points at output pixel (i, j).
template <typename C>
struct Flow {
  const C* data;
  Strides stride;

  MSR_HOST_DEVICE C x(int64_t b, int64_t i, int64_t j) const {
    return static_cast<C>(j) + data[b * stride.b + i * stride.h + j * stride.w];
  }
  MSR_HOST_DEVICE C y(int64_t b, int64_t i, int64_t j) const {
    return static_cast<C>(i) + data[b * stride.b + stride.c + i * stride.h + j * stride.w];
  }
};

// The sizes of one call.
struct Sizes {
  int64_t batch, channels, height, width, out_height, out_width;
  bool border;

  MSR_HOST_DEVICE int64_t pixels() const { return out_height * out_width; }
};

inline Sizes sizes(const Tensor& x, const Tensor& flow, bool border) {
  MSR_CHECK(x.dim() == 4 && flow.dim() == 4 && flow.size(1) == 2 && flow.size(0) == x.size(0),
            "flow_warp needs x (B, C, H, W) and flow (B, 2, Ho, Wo), got ", describe(x), " and ", describe(flow));
  const Sizes s{x.size(0), x.size(1), x.size(2), x.size(3), flow.size(2), flow.size(3), border};
  MSR_CHECK(!border || s.height * s.width > 0 || s.batch * s.pixels() == 0,
            "flow_warp cannot pad with the border of an image without pixels, got ", describe(x));
  return s;
}

inline void check_grad(const Tensor& grad, const Tensor& x, const Sizes& s) {
  MSR_CHECK(grad.dim() == 4 && grad.size(0) == s.batch && grad.size(1) == s.channels && grad.size(2) == s.out_height &&
                grad.size(3) == s.out_width,
            "flow_warp_backward needs grad (B, C, Ho, Wo), got ", describe(grad), " for x ", describe(x));
}

template <typename C>
Flow<C> flow_of(const Tensor& flow) {
  return {static_cast<const C*>(flow.data_ptr()), strides(flow)};
}

// Calls body with the number of taps as a compile-time constant.
template <typename Body>
void with_taps(int count, const Body& body) {
  if (count == 1) return body(std::integral_constant<int, 1>{});
  if (count == 2) return body(std::integral_constant<int, 2>{});
  body(std::integral_constant<int, 4>{});
}

}  // namespace msr::flow_warp

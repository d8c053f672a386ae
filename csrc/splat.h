// splat, the maths of one pixel, shared by CPU and CUDA: the four pixels on which it lands, with which shares.
#pragma once

#include "common.h"

#include <cmath>
#include <limits>

namespace msr::splat {

enum class Mode { sum, average, linear, soft };

inline Mode mode_of(const std::string& mode) {
  if (mode == "sum") return Mode::sum;
  if (mode == "average") return Mode::average;
  if (mode == "linear") return Mode::linear;
  MSR_CHECK(mode == "soft", "splat: unknown mode ", mode);
  return Mode::soft;
}

struct Sizes {
  int64_t batch, channels, height, width;
  Mode mode;

  MSR_HOST_DEVICE int64_t pixels() const { return height * width; }
  MSR_HOST_DEVICE bool divides() const { return mode != Mode::sum; }
};

template <typename C>
struct Corners {
  int64_t at[4];  // in the plane of an image; always within it
  bool inside[4];
  C share[4], slope_x[4], slope_y[4];  // shares and their derivatives by the position; 0 outside
};

// Three pixels outside of the image nothing lands in it: a position further out, or NaN, is moved there, so that it fits an
// integer. The comparison is false for NaN.
template <typename C>
MSR_HOST_DEVICE C bounded(C position, int64_t size) {
  const C low = C(-3), high = static_cast<C>(size + 2);
  position = position > low ? position : low;
  return position < high ? position : high;
}

template <typename C>
MSR_HOST_DEVICE Corners<C> corners(C x, C y, const Sizes& s) {
  Corners<C> found;
  x = bounded(x, s.width);
  y = bounded(y, s.height);
  const C left = std::floor(x), top = std::floor(y), across = x - left, down = y - top;
  for (int k = 0; k < 4; ++k) {
    const int64_t column = static_cast<int64_t>(left) + k % 2, row = static_cast<int64_t>(top) + k / 2;
    const C share_x = k % 2 ? across : C(1) - across, share_y = k / 2 ? down : C(1) - down;
    const bool inside = row >= 0 && row < s.height && column >= 0 && column < s.width;
    found.inside[k] = inside;
    found.at[k] = inside ? row * s.width + column : 0;
    found.share[k] = inside ? share_x * share_y : C(0);
    found.slope_x[k] = inside ? (k % 2 ? share_y : -share_y) : C(0);
    found.slope_y[k] = inside ? (k / 2 ? share_x : -share_x) : C(0);
  }
  return found;
}

// What pixel n of an image is worth: flow and metric are contiguous, of the compute type.
template <typename C>
struct Motion {
  const C* flow;    // (B, 2, H, W)
  const C* metric;  // (B, 1, H, W), or null

  MSR_HOST_DEVICE Corners<C> corners(int64_t b, int64_t n, const Sizes& s) const {
    const C* of_image = flow + b * 2 * s.pixels();
    return splat::corners(static_cast<C>(n % s.width) + of_image[n],
                          static_cast<C>(n / s.width) + of_image[s.pixels() + n], s);
  }
};

constexpr double kLargestMetric = 1e30;

// Of "soft": infinite metrics are drawn in, so that their differences are numbers. NaN stays.
template <typename C>
MSR_HOST_DEVICE C bounded_metric(C metric) {
  const C most = static_cast<C>(kLargestMetric);
  return metric < -most ? -most : metric > most ? most : metric;
}

// What a pixel counts at a place: its metric, or the exponential relative to the largest metric there. A share of zero may
// have a larger metric than that: its exponential is held at one.
template <typename C>
MSR_HOST_DEVICE C strength(Mode mode, C metric, C highest) {
  if (mode == Mode::linear) return metric;
  if (mode != Mode::soft) return C(1);
  const C above = bounded_metric(metric) - highest;
  return std::exp(above > C(0) ? C(0) : above);
}

// d strength / d metric.
template <typename C>
MSR_HOST_DEVICE C strength_slope(Mode mode, C metric, C strength) {
  if (mode == Mode::linear) return C(1);
  return mode == Mode::soft && bounded_metric(metric) == metric ? strength : C(0);
}

inline Sizes sizes(const Tensor& x, const Tensor& flow, const std::optional<Tensor>& metric, const std::string& mode) {
  MSR_CHECK(x.dim() == 4 && flow.dim() == 4 && flow.size(1) == 2 && flow.size(0) == x.size(0) &&
                flow.size(2) == x.size(2) && flow.size(3) == x.size(3),
            "splat needs x (B, C, H, W) and flow (B, 2, H, W), got ", describe(x), " and ", describe(flow));
  const Sizes s{x.size(0), x.size(1), x.size(2), x.size(3), mode_of(mode)};
  MSR_CHECK(metric.has_value() == (s.mode == Mode::linear || s.mode == Mode::soft),
            "splat needs a metric for linear and soft, and none for sum and average, got ", mode);
  MSR_CHECK(!metric.has_value() || metric->numel() == s.batch * s.pixels(), "splat needs a metric (B, 1, H, W), got ",
            metric.has_value() ? describe(*metric) : "none");
  return s;
}

inline void check_like(const Tensor& tensor, const char* name, const Sizes& s) {
  MSR_CHECK(tensor.dim() == 4 && tensor.size(0) == s.batch && tensor.size(1) == s.channels &&
                tensor.size(2) == s.height && tensor.size(3) == s.width,
            "splat_backward needs ", name, " of the shape of x, got ", describe(tensor));
}

// A tensor in the compute type, contiguous; holds on to what Motion points into.
inline Tensor motion_tensor(const Tensor& tensor, ScalarType compute) {
  return as_contiguous(to_type(tensor, compute));
}

}  // namespace msr::splat

// correlation_lookup, the maths of one pixel, shared by CPU and CUDA: which whole places of b it is compared with, and how
// the products there are mixed. All shifts share the fraction of a pixel: (2r + 2)^2 products give (2r + 1)^2 results.
#pragma once

#include "common.h"

#include <cmath>

namespace msr::correlation_lookup {

struct Sizes {
  int64_t batch, channels, height, width, b_height, b_width, radius;

  MSR_HOST_DEVICE int64_t side() const { return 2 * radius + 1; }
  MSR_HOST_DEVICE int64_t shifts() const { return side() * side(); }
  MSR_HOST_DEVICE int64_t whole_side() const { return side() + 1; }
  MSR_HOST_DEVICE int64_t places() const { return whole_side() * whole_side(); }
  MSR_HOST_DEVICE int64_t pixels() const { return height * width; }
};

// The window of one pixel: its first row and column in b, and the fraction of a pixel beyond whole places.
template <typename C>
struct Window {
  int64_t top, left;
  C across, down;
  bool moves_x, moves_y;  // whether a small step of the coordinate changes anything: not where it was drawn in

  MSR_HOST_DEVICE bool inside(int64_t row, int64_t column, const Sizes& s) const {
    return top + row >= 0 && top + row < s.b_height && left + column >= 0 && left + column < s.b_width;
  }
  // The share of whole place (row, column) in shift (dy, dx), and its derivatives by the coordinates.
  MSR_HOST_DEVICE C share_x(int64_t column, int64_t dx) const { return column == dx ? C(1) - across : across; }
  MSR_HOST_DEVICE C share_y(int64_t row, int64_t dy) const { return row == dy ? C(1) - down : down; }
};

// So far outside no shift reaches the image: a position further out, or NaN, is moved there. False comparisons for NaN.
template <typename C>
MSR_HOST_DEVICE C bounded(C position, int64_t size, int64_t radius) {
  const C low = static_cast<C>(-radius - 2), high = static_cast<C>(size + radius + 1);
  position = position > low ? position : low;
  return position < high ? position : high;
}

template <typename C>
MSR_HOST_DEVICE Window<C> window(C x, C y, const Sizes& s) {
  const C x_in = bounded(x, s.b_width, s.radius), y_in = bounded(y, s.b_height, s.radius);
  const C left = std::floor(x_in), top = std::floor(y_in);
  return {static_cast<int64_t>(top) - s.radius, static_cast<int64_t>(left) - s.radius, x_in - left, y_in - top,
          x_in == x, y_in == y};
}

// The result at shift (dy, dx) from the products at the whole places.
template <typename C>
MSR_HOST_DEVICE C mix(const C* whole, const Window<C>& w, int64_t dy, int64_t dx, const Sizes& s) {
  const C* at = whole + dy * s.whole_side() + dx;
  const C upper = at[0] * (C(1) - w.across) + at[1] * w.across;
  const C lower = at[s.whole_side()] * (C(1) - w.across) + at[s.whole_side() + 1] * w.across;
  return upper * (C(1) - w.down) + lower * w.down;
}

// The gradient of the product at whole place (row, column) from those of the results, which grad(shift) reads.
template <typename C, typename Grad>
MSR_HOST_DEVICE C unmix(const Grad& grad, const Window<C>& w, int64_t row, int64_t column, const Sizes& s) {
  C sum = C(0);
  for (int64_t dy = row > 0 ? row - 1 : 0; dy <= row && dy < s.side(); ++dy)
    for (int64_t dx = column > 0 ? column - 1 : 0; dx <= column && dx < s.side(); ++dx)
      sum += grad(dy * s.side() + dx) * w.share_y(row, dy) * w.share_x(column, dx);
  return sum;
}

// Adds what shift (dy, dx) gives to the gradient of the coordinates.
template <typename C>
MSR_HOST_DEVICE void add_slope(C grad, const C* whole, const Window<C>& w, int64_t dy, int64_t dx, const Sizes& s,
                               C& to_x, C& to_y) {
  const C* at = whole + dy * s.whole_side() + dx;
  const C upper_left = at[0], upper_right = at[1], left = at[s.whole_side()], right = at[s.whole_side() + 1];
  if (w.moves_x) to_x += grad * ((upper_right - upper_left) * (C(1) - w.down) + (right - left) * w.down);
  if (w.moves_y) to_y += grad * ((left - upper_left) * (C(1) - w.across) + (right - upper_right) * w.across);
}

inline Sizes sizes(const Tensor& a, const Tensor& b, const Tensor& coords, int64_t radius) {
  MSR_CHECK(a.dim() == 4 && b.dim() == 4 && coords.dim() == 4 && a.size(0) == b.size(0) && a.size(1) == b.size(1) &&
                coords.size(0) == a.size(0) && coords.size(1) == 2 && coords.size(2) == a.size(2) &&
                coords.size(3) == a.size(3) && a.scalar_type() == b.scalar_type() && radius >= 0,
            "correlation_lookup needs a (B, C, H, W), b (B, C, Hb, Wb) and coords (B, 2, H, W), got ", describe(a), ", ",
            describe(b), ", ", describe(coords), " and radius ", radius);
  return {a.size(0), a.size(1), a.size(2), a.size(3), b.size(2), b.size(3), radius};
}

inline void check_grad(const Tensor& grad, const Sizes& s) {
  MSR_CHECK(grad.dim() == 4 && grad.size(0) == s.batch && grad.size(1) == s.shifts() && grad.size(2) == s.height &&
                grad.size(3) == s.width,
            "correlation_lookup_backward needs grad (B, (2r + 1)^2, H, W), got ", describe(grad));
}

}  // namespace msr::correlation_lookup

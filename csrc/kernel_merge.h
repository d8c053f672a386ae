// kernel_merge: what CPU and CUDA share, which is the whole of one pixel of the result.
#pragma once

#include "exponential.h"

namespace msr::kernel_merge {

constexpr int kMaxChannels = 4;

struct Geometry {
  int64_t batch, count, channels, out_channels;
  int64_t height, width;            // of the frames
  int64_t base_height, base_width;  // of the grid of positions, covariance and weights
  int64_t out_height, out_width;
  double scale;
  int radius;
  int colours[2][2];  // the channel that each pixel of the mosaic adds to; -1 without a mosaic

  MSR_HOST_DEVICE int64_t pixels() const { return out_height * out_width; }
};

// Reads the geometry off the arguments and checks once more, for callers other than msr.ops, that they fit together.
inline Geometry geometry_of(const Tensor& frames, const Tensor& positions, const Tensor& covariance,
                            const Tensor& weights, double scale, const std::string& mosaic, int64_t radius) {
  const auto guides = [&](const Tensor& x, int64_t entries) {
    return x.dim() == 5 && x.size(0) == frames.size(0) && x.size(1) == frames.size(1) && x.size(2) == entries &&
           x.size(3) == positions.size(3) && x.size(4) == positions.size(4);
  };
  bool fits = frames.dim() == 5 && frames.size(2) >= 1 && frames.size(2) <= kMaxChannels;
  fits = fits && guides(positions, 2) && guides(covariance, 3) && guides(weights, 1);
  fits = fits && scale >= 1 && scale <= 4 && radius >= 1 && radius <= 4;
  fits = fits && (mosaic.empty() || (mosaic.size() == 4 && frames.size(2) == 1));
  MSR_CHECK(fits, "kernel_merge: arguments do not fit: frames ", describe(frames), ", positions ", describe(positions),
            ", covariance ", describe(covariance), ", weights ", describe(weights));
  Geometry g{};
  g.batch = frames.size(0), g.count = frames.size(1), g.channels = frames.size(2);
  g.height = frames.size(3), g.width = frames.size(4);
  g.base_height = positions.size(3), g.base_width = positions.size(4);
  g.out_channels = mosaic.empty() ? g.channels : 3;
  g.out_height = static_cast<int64_t>(std::ceil(static_cast<double>(g.base_height) * scale));
  g.out_width = static_cast<int64_t>(std::ceil(static_cast<double>(g.base_width) * scale));
  g.scale = scale;
  g.radius = static_cast<int>(radius);
  for (size_t i = 0; i < 4; ++i) {
    const char letter = mosaic.empty() ? ' ' : mosaic[i];
    MSR_CHECK(mosaic.empty() || letter == 'r' || letter == 'g' || letter == 'b', "kernel_merge: unknown mosaic ", mosaic);
    g.colours[i / 2][i % 2] = letter == 'r' ? 0 : letter == 'g' ? 1 : letter == 'b' ? 2 : -1;
  }
  return g;
}

// Where a row or column of the result lies between two of the base grid.
template <typename C>
struct Between {
  int64_t first, second;
  C part;
};

template <typename C>
MSR_HOST_DEVICE Between<C> between(int64_t n, C scale, int64_t length) {
  C place = (static_cast<C>(n) + C(0.5)) / scale - C(0.5);
  const C last = static_cast<C>(length - 1);
  place = place > C(0) ? place : C(0);
  place = place < last ? place : last;
  const C low = std::floor(place);
  const int64_t first = static_cast<int64_t>(low);
  return {first, first + 1 < length ? first + 1 : length - 1, place - low};
}

// Frames and guides are contiguous, guides of the compute type. Adds up one pixel over all frames.
template <typename T>
MSR_HOST_DEVICE void merge_pixel(const Geometry& g, const T* frames, const compute_t<T>* positions,
                                 const compute_t<T>* covariance, const compute_t<T>* weights, int64_t b, int64_t i,
                                 int64_t j, compute_t<T> (&total)[kMaxChannels], compute_t<T> (&mass)[kMaxChannels]) {
  using C = compute_t<T>;
  const Between<C> down = between(i, static_cast<C>(g.scale), g.base_height);
  const Between<C> along = between(j, static_cast<C>(g.scale), g.base_width);
  const int64_t grid = g.base_height * g.base_width, plane = g.height * g.width;
  const auto read = [&](const C* guide) {
    const C *upper = guide + down.first * g.base_width, *lower = guide + down.second * g.base_width;
    const C left = upper[along.first] * (C(1) - down.part) + lower[along.first] * down.part;
    const C right = upper[along.second] * (C(1) - down.part) + lower[along.second] * down.part;
    return left * (C(1) - along.part) + right * along.part;
  };
  const C radius = static_cast<C>(g.radius), height = static_cast<C>(g.height), width = static_cast<C>(g.width);
  for (int64_t n = 0; n < g.count; ++n) {
    const int64_t frame = b * g.count + n;
    const C strength = read(weights + frame * grid);
    const C x = read(positions + 2 * frame * grid), y = read(positions + (2 * frame + 1) * grid);
    const C xx = read(covariance + 3 * frame * grid), xy = read(covariance + (3 * frame + 1) * grid);
    const C yy = read(covariance + (3 * frame + 2) * grid), determinant = xx * yy - xy * xy;
    // False for NaN, too.
    const bool near = x > -radius - C(1) && x < width + radius && y > -radius - C(1) && y < height + radius;
    if (!(near && xx > C(0) && determinant > C(0) && determinant - determinant == C(0) && strength > C(0))) continue;
    const int64_t column = static_cast<int64_t>(std::rint(x)), row = static_cast<int64_t>(std::rint(y));
    for (int64_t v = row - g.radius; v <= row + g.radius; ++v) {
      if (v < 0 || v >= g.height) continue;
      for (int64_t u = column - g.radius; u <= column + g.radius; ++u) {
        if (u < 0 || u >= g.width) continue;
        const C dx = static_cast<C>(u) - x, dy = static_cast<C>(v) - y;
        const C distance = (yy * dx * dx - C(2) * xy * dx * dy + xx * dy * dy) / determinant;
        const C share = strength * weight_of_two(C(-0.7213475204444817) * distance);
        const T* source = frames + frame * g.channels * plane + v * g.width + u;
        if (g.colours[0][0] >= 0) {
          const int colour = g.colours[v % 2][u % 2];
          for (int c = 0; c < 3; ++c)
            if (c == colour) total[c] += share * static_cast<C>(*source), mass[c] += share;
        } else {
          for (int c = 0; c < kMaxChannels; ++c)
            if (c < g.channels) total[c] += share * static_cast<C>(source[c * plane]), mass[c] += share;
        }
      }
    }
  }
}

}  // namespace msr::kernel_merge

// kernel_merge on the CPU: rows of the result on torch's threads, some dozen pixels at a time in loops without branches.
#include "kernel_merge.h"

#include <algorithm>

namespace msr::kernel_merge {
namespace {

constexpr int64_t kSome = 128;         // pixels of the result that are made at once
constexpr int64_t kGuides = 6;         // weight, x, y, xx, xy, yy
constexpr int64_t kReach = kSome + 2;  // pixels of the base grid that they lie between, as the scale is 1 or more

// Some pixels of the result in one frame. Numbers that are not meant to count are made harmless, and `counts` is 0.
template <typename C>
struct Places {
  C guide[kGuides][kSome];
  C dx[kSome], dy[kSome];                     // from the position to the nearest pixel
  C across[kSome], both[kSome], down[kSome];  // factors of dx^2, dx dy and dy^2 in the exponent
  C strength[kSome];
  int row[kSome], column[kSome], counts[kSome];
};

// Sums over pixels of a frame. In a mosaic those at even and odd distance from the nearest pixel, down and across, are
// kept apart, for they are of one colour each; else a channel each, and the first mass is that of all.
template <typename C>
struct Sums {
  C total[kMaxChannels][kSome], mass[kMaxChannels][kSome];
};

// Where the columns of the result lie between those of the base grid, see Between.
template <typename C>
struct Along {
  std::vector<int> first, second;
  std::vector<C> part;

  explicit Along(const Geometry& g) {
    for (int64_t j = 0; j < g.out_width; ++j) {
      const Between<C> found = between(j, static_cast<C>(g.scale), g.base_width);
      first.push_back(static_cast<int>(found.first));
      second.push_back(static_cast<int>(found.second));
      part.push_back(found.part);
    }
  }
};

template <typename C>
MSR_HOST_DEVICE void read_guides(const Geometry& g, const C* const (&guides)[kGuides], const Between<C>& down,
                                 const Along<C>& along, int64_t begin, int64_t count, Places<C>& out) {
  C blended[kReach], left[kSome], right[kSome];
  const int *first = along.first.data() + begin, *second = along.second.data() + begin;
  const C* part = along.part.data() + begin;
  const int start = first[0];
  for (int64_t n = 0; n < kGuides; ++n) {
    const C *upper = guides[n] + down.first * g.base_width + start, *lower = guides[n] + down.second * g.base_width + start;
    for (int64_t p = 0; p <= second[count - 1] - start; ++p)
      blended[p] = upper[p] * (C(1) - down.part) + lower[p] * down.part;
    // Fetched one by one: out of loops of vectors the indices would first have to be taken apart.
    for (int64_t p = 0; p < count; ++p) left[p] = blended[first[p] - start], right[p] = blended[second[p] - start];
#pragma omp simd
    for (int64_t p = 0; p < count; ++p) out.guide[n][p] = left[p] * (C(1) - part[p]) + right[p] * part[p];
  }
}

template <typename C>
MSR_HOST_DEVICE void find_places(const Geometry& g, int64_t count, Places<C>& at) {
  const C radius = static_cast<C>(g.radius), height = static_cast<C>(g.height), width = static_cast<C>(g.width);
#pragma omp simd
  for (int64_t p = 0; p < count; ++p) {
    const C strength = at.guide[0][p], x = at.guide[1][p], y = at.guide[2][p];
    const C xx = at.guide[3][p], xy = at.guide[4][p], yy = at.guide[5][p], determinant = xx * yy - xy * xy;
    // False for NaN, too.
    const bool near = (x > -radius - C(1)) & (x < width + radius) & (y > -radius - C(1)) & (y < height + radius);
    const bool counts =
        near & (xx > C(0)) & (determinant > C(0)) & (determinant - determinant == C(0)) & (strength > C(0));
    const C nearest_x = counts ? std::rint(x) : C(0), nearest_y = counts ? std::rint(y) : C(0);
    at.column[p] = static_cast<int>(nearest_x);
    at.row[p] = static_cast<int>(nearest_y);
    at.dx[p] = counts ? nearest_x - x : C(0);
    at.dy[p] = counts ? nearest_y - y : C(0);
    const C by = C(1) / (counts ? determinant : C(1));
    at.across[p] = counts ? C(-0.5) * yy * by : C(0);
    at.both[p] = counts ? xy * by : C(0);
    at.down[p] = counts ? C(-0.5) * xx * by : C(0);
    at.strength[p] = counts ? strength : C(0);
    at.counts[p] = counts;
  }
}

// Adds the pixel at (v, u) from the nearest one.
template <typename T, typename Index>
MSR_HOST_DEVICE void add_pixel(const Geometry& g, const T* frame, const Places<compute_t<T>>& at, int v, int u, bool mosaic,
                               int64_t count, Sums<compute_t<T>>& sums) {
  using C = compute_t<T>;
  C share[kSome];
  Index index[kSome];
  int inside[kSome];
  const int height = static_cast<int>(g.height), width = static_cast<int>(g.width);
  const int64_t kind = mosaic ? (v & 1) * 2 + (u & 1) : 0;
#pragma omp simd
  for (int64_t p = 0; p < count; ++p) {
    const int row = at.row[p] + v, column = at.column[p] + u;
    inside[p] = at.counts[p] & (row >= 0) & (row < height) & (column >= 0) & (column < width);
    index[p] = inside[p] ? static_cast<Index>(row) * static_cast<Index>(width) + column : 0;
    const C dx = at.dx[p] + static_cast<C>(u), dy = at.dy[p] + static_cast<C>(v);
    const C power = at.across[p] * dx * dx + at.both[p] * dx * dy + at.down[p] * dy * dy;
    share[p] = inside[p] ? at.strength[p] * exponential(power) : C(0);
    sums.mass[kind][p] += share[p];
  }
  for (int64_t c = 0; c < g.channels; ++c) {
    const T* plane = frame + c * g.height * g.width;
    C* total = sums.total[mosaic ? kind : c];
#pragma omp simd
    for (int64_t p = 0; p < count; ++p) {
      const C value = load(plane[index[p]]);
      total[p] += share[p] * (inside[p] ? value : C(0));
    }
  }
}

// Adds the sums of a frame to those of all, which in a mosaic are those of its even and odd rows and columns.
template <typename C>
MSR_HOST_DEVICE void add_frame(const Geometry& g, const Places<C>& at, const Sums<C>& sums, bool mosaic, int64_t count,
                               Sums<C>& all) {
  if (mosaic) {
#pragma omp simd
    for (int64_t p = 0; p < count; ++p) {
      const bool odd_row = (at.row[p] & 1) != 0, odd_column = (at.column[p] & 1) != 0;
      const auto add = [&](const C(&from)[kMaxChannels][kSome], C(&to)[kMaxChannels][kSome]) {
        const C even[2] = {odd_row ? from[2][p] : from[0][p], odd_row ? from[3][p] : from[1][p]};
        const C odd[2] = {odd_row ? from[0][p] : from[2][p], odd_row ? from[1][p] : from[3][p]};
        to[0][p] += odd_column ? even[1] : even[0];
        to[1][p] += odd_column ? even[0] : even[1];
        to[2][p] += odd_column ? odd[1] : odd[0];
        to[3][p] += odd_column ? odd[0] : odd[1];
      };
      add(sums.total, all.total);
      add(sums.mass, all.mass);
    }
  } else {
    for (int64_t c = 0; c < g.channels; ++c) {
#pragma omp simd
      for (int64_t p = 0; p < count; ++p) all.total[c][p] += sums.total[c][p], all.mass[c][p] += sums.mass[0][p];
    }
  }
}

// Writes a channel of the result: in a mosaic the sum of the pixels that have its colour.
template <typename T>
MSR_HOST_DEVICE void finish(const Geometry& g, const Sums<compute_t<T>>& all, int64_t c, bool mosaic, int64_t count,
                            T* image, compute_t<T>* weight) {
  using C = compute_t<T>;
  C total[kSome] = {}, mass[kSome] = {};
  for (int kind = 0; kind < kMaxChannels; ++kind) {
    if (mosaic ? g.colours[kind / 2][kind % 2] != c : kind != c) continue;
#pragma omp simd
    for (int64_t p = 0; p < count; ++p) total[p] += all.total[kind][p], mass[p] += all.mass[kind][p];
  }
#pragma omp simd
  for (int64_t p = 0; p < count; ++p) {
    const C mean = total[p] / (mass[p] > C(0) ? mass[p] : C(1));
    image[p] = store<T>(mass[p] > C(0) ? mean : C(0));
    weight[p] = mass[p];
  }
}

template <typename T, typename Index>
void merge(const Geometry& g, const T* frames, const compute_t<T>* positions, const compute_t<T>* covariance,
           const compute_t<T>* weights, T* image, compute_t<T>* weight) {
  using C = compute_t<T>;
  const bool mosaic = g.colours[0][0] >= 0;
  const int64_t grid = g.base_height * g.base_width;
  const int64_t frames_to_read = g.height * g.width > 0 ? g.count : 0;
  const Along<C> along(g);
  parallel(g.batch * g.out_height, g.out_width * g.count * 60, [&](int64_t begin, int64_t end) {
    with_simd([&] {
      Places<C> at;
      Sums<C> all, sums;
      for (int64_t n = begin; n < end; ++n) {
        const int64_t b = n / g.out_height, i = n % g.out_height;
        const Between<C> down = between(i, static_cast<C>(g.scale), g.base_height);
        for (int64_t j = 0; j < g.out_width; j += kSome) {
          const int64_t count = std::min(kSome, g.out_width - j);
          all = {};
          for (int64_t frame = b * g.count; frame < b * g.count + frames_to_read; ++frame) {
            const C *where = positions + 2 * frame * grid, *spread = covariance + 3 * frame * grid;
            read_guides<C>(g, {weights + frame * grid, where, where + grid, spread, spread + grid, spread + 2 * grid},
                           down, along, j, count, at);
            find_places(g, count, at);
            sums = {};
            for (int v = -g.radius; v <= g.radius; ++v)
              for (int u = -g.radius; u <= g.radius; ++u)
                add_pixel<T, Index>(g, frames + frame * g.channels * g.height * g.width, at, v, u, mosaic, count, sums);
            add_frame(g, at, sums, mosaic, count, all);
          }
          for (int64_t c = 0; c < g.out_channels; ++c) {
            const int64_t place = (b * g.out_channels + c) * g.pixels() + i * g.out_width + j;
            finish(g, all, c, mosaic, count, image + place, weight + place);
          }
        }
      }
    });
  });
}

}  // namespace
}  // namespace msr::kernel_merge

namespace msr {

std::tuple<Tensor, Tensor> kernel_merge_cpu(const Tensor& given_frames, const Tensor& given_positions,
                                            const Tensor& given_covariance, const Tensor& given_weights, double scale,
                                            const std::string& mosaic, int64_t radius) {
  using namespace kernel_merge;
  const Geometry g =
      geometry_of(given_frames, given_positions, given_covariance, given_weights, scale, mosaic, radius);
  const ScalarType type = compute_type(given_frames.scalar_type());
  const auto prepared = [&](const Tensor& x) { return torch::stable::contiguous(to_type(x, type)); };
  const Tensor frames = torch::stable::contiguous(given_frames), positions = prepared(given_positions);
  const Tensor covariance = prepared(given_covariance), weights = prepared(given_weights);
  const std::vector<int64_t> shape{g.batch, g.out_channels, g.out_height, g.out_width};
  Tensor image = empty(frames, shape, frames.scalar_type()), weight = empty(frames, shape, type);
  if (image.numel() == 0) return {image, weight};
  dispatch_floating(frames.scalar_type(), "kernel_merge", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const bool small = g.height * g.width <= INT32_MAX;
    (small ? merge<T, int32_t> : merge<T, int64_t>)(
        g, static_cast<const T*>(frames.data_ptr()), static_cast<const C*>(positions.data_ptr()),
        static_cast<const C*>(covariance.data_ptr()), static_cast<const C*>(weights.data_ptr()),
        static_cast<T*>(image.data_ptr()), static_cast<C*>(weight.data_ptr()));
  });
  return {image, weight};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) {
  m.impl("kernel_merge", TORCH_BOX(&msr::kernel_merge_cpu));
}

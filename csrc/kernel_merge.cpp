// kernel_merge on the CPU: rows of the result on torch's threads, some dozen pixels at a time in loops without branches.
#include "kernel_merge.h"

#include <algorithm>

namespace msr::kernel_merge {
namespace {

constexpr int64_t kSome = 128;         // pixels of the result that are made at once
constexpr int64_t kGuides = 6;         // weight, x, y, xx, xy, yy
constexpr int64_t kReach = kSome + 2;  // pixels of the base grid that they lie between, as the scale is 1 or more
constexpr int kNear = 9;               // pixels of a frame that are looked at where the radius is 1
constexpr double kLog2E = 1.4426950408889634;

// Some pixels of the result in one frame. Numbers that are not meant to count are made harmless, and `counts` is 0.
template <typename C>
struct Places {
  C guide[kGuides][kSome];
  C dx[kSome], dy[kSome];                     // from the position to the nearest pixel
  C across[kSome], both[kSome], down[kSome];  // factors of dx^2, dx dy and dy^2 in the exponent of 2
  C strength[kSome];
  int row[kSome], column[kSome], counts[kSome];
  bool any, inside;  // whether any of them counts; whether all that do have their nine nearest pixels in the frame
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
  C blended[kReach + 2], left[kSome], right[kSome];
  const int *first = along.first.data() + begin, *second = along.second.data() + begin;
  const C* part = along.part.data() + begin;
  const int start = first[0];
  for (int64_t n = 0; n < kGuides; ++n) {
    const C *upper = guides[n] + down.first * g.base_width + start, *lower = guides[n] + down.second * g.base_width + start;
    const int64_t last = second[count - 1] - start;
    for (int64_t p = 0; p <= last; ++p) blended[p] = upper[p] * (C(1) - down.part) + lower[p] * down.part;
    if (g.scale == 2 && count == kSome && begin > 0 && begin + count < g.out_width) {
      // Two pixels of the result lie a quarter of a pixel before and behind one of the grid.
#pragma omp simd
      for (int64_t p = 0; p < kSome / 2; ++p) {
        out.guide[n][2 * p] = C(0.25) * blended[p] + C(0.75) * blended[p + 1];
        out.guide[n][2 * p + 1] = C(0.75) * blended[p + 1] + C(0.25) * blended[p + 2];
      }
      continue;
    }
    // Fetched one by one: out of loops of vectors the indices would first have to be taken apart.
    for (int64_t p = 0; p < count; ++p) left[p] = blended[first[p] - start], right[p] = blended[second[p] - start];
#pragma omp simd
    for (int64_t p = 0; p < count; ++p) out.guide[n][p] = left[p] * (C(1) - part[p]) + right[p] * part[p];
  }
}

template <typename C>
MSR_HOST_DEVICE void find_places(const Geometry& g, int64_t count, Places<C>& at) {
  const C radius = static_cast<C>(g.radius), height = static_cast<C>(g.height), width = static_cast<C>(g.width);
  const C log2e = static_cast<C>(kLog2E);
  int any = 0, outside = 0;
#pragma omp simd reduction(| : any, outside)
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
    any |= counts;
    outside |= counts & !((nearest_x >= C(1)) & (nearest_x < width - C(1)) & (nearest_y >= C(1)) & (nearest_y < height - C(1)));
    const C by = log2e / (counts ? determinant : C(1));
    at.across[p] = counts ? C(-0.5) * yy * by : C(0);
    at.both[p] = counts ? xy * by : C(0);
    at.down[p] = counts ? C(-0.5) * xx * by : C(0);
    at.strength[p] = counts ? strength : C(0);
    at.counts[p] = counts;
  }
  at.any = any != 0;
  at.inside = outside == 0;
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
    share[p] = inside[p] ? at.strength[p] * weight_of_two(power) : C(0);
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

// Fetches the nine nearest pixels of each place, a row of four for four places at once where the frame (up to `end`) has
// the fourth. What does not count reads the first pixels of the frame.
template <typename T, typename Index>
MSR_HOST_DEVICE void read_near(const T* plane, const T* end, const Places<compute_t<T>>& at, Index width, int64_t count,
                               compute_t<T> (&value)[kNear][kSome]) {
  using C = compute_t<T>;
  const auto from = [&](int64_t p) {
    return plane + (at.counts[p] ? (static_cast<Index>(at.row[p]) - 1) * width + at.column[p] - 1 : 0);
  };
  int64_t p = 0;
  for (; p + 4 <= count; p += 4) {
    const T* const place[4] = {from(p), from(p + 1), from(p + 2), from(p + 3)};
    const T* const last = std::max(std::max(place[0], place[1]), std::max(place[2], place[3]));
    if (end - last < 2 * static_cast<int64_t>(width) + 4) break;
    for (int k = 0; k < 3; ++k) {
      C square[4][4];
      for (int n = 0; n < 4; ++n)
        for (int m = 0; m < 4; ++m) square[n][m] = load(place[n][k * width + m]);
      for (int m = 0; m < 3; ++m)
        for (int n = 0; n < 4; ++n) value[3 * k + m][p + n] = square[n][m];
    }
  }
  for (; p < count; ++p)
    for (int k = 0; k < kNear; ++k) value[k][p] = load(from(p)[k / 3 * width + k % 3]);
}

// Adds the nine nearest pixels of places that have them all; `shares` are their weights.
template <typename C>
MSR_HOST_DEVICE void find_shares(const Places<C>& at, int64_t count, C (&shares)[kNear][kSome]) {
#pragma omp simd
  for (int64_t p = 0; p < count; ++p) {
    const auto tap = [&](int k) {
      const C dx = at.dx[p] + static_cast<C>(k % 3 - 1), dy = at.dy[p] + static_cast<C>(k / 3 - 1);
      const C power = (at.across[p] * dx + at.both[p] * dy) * dx + at.down[p] * dy * dy;
      shares[k][p] = at.strength[p] * weight_of_two(power);
    };
    tap(0), tap(1), tap(2), tap(3), tap(4), tap(5), tap(6), tap(7), tap(8);
  }
}

template <typename T, typename Index>
MSR_HOST_DEVICE void add_near(const Geometry& g, const T* frame, const Places<compute_t<T>>& at, bool mosaic, int64_t count,
                              Sums<compute_t<T>>& sums) {
  const T* const end = frame + g.channels * g.height * g.width;
  using C = compute_t<T>;
  C shares[kNear][kSome], value[kNear][kSome];
  find_shares(at, count, shares);
  for (int64_t c = 0; c < g.channels; ++c) {
    read_near<T, Index>(frame + c * g.height * g.width, end, at, static_cast<Index>(g.width), count, value);
#pragma omp simd
    for (int64_t p = 0; p < count; ++p) {
      const auto part = [&](int k) { return at.counts[p] ? shares[k][p] * value[k][p] : C(0); };
      const C corners = (part(0) + part(2)) + (part(6) + part(8)), rows = part(1) + part(7), columns = part(3) + part(5);
      sums.total[mosaic ? 0 : c][p] = mosaic ? part(4) : part(4) + (corners + (rows + columns));
      if (mosaic) sums.total[1][p] = columns, sums.total[2][p] = rows, sums.total[3][p] = corners;
    }
  }
#pragma omp simd
  for (int64_t p = 0; p < count; ++p) {
    const C corners = (shares[0][p] + shares[2][p]) + (shares[6][p] + shares[8][p]);
    const C rows = shares[1][p] + shares[7][p], columns = shares[3][p] + shares[5][p];
    sums.mass[0][p] = mosaic ? shares[4][p] : shares[4][p] + (corners + (rows + columns));
    if (mosaic) sums.mass[1][p] = columns, sums.mass[2][p] = rows, sums.mass[3][p] = corners;
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
            if (!at.any) continue;
            const T* pixels = frames + frame * g.channels * g.height * g.width;
            if (at.inside && g.radius == 1 && g.height > 2 && g.width > 2) {
              add_near<T, Index>(g, pixels, at, mosaic, count, sums);
            } else {
              sums = {};
              for (int v = -g.radius; v <= g.radius; ++v)
                for (int u = -g.radius; u <= g.radius; ++u) add_pixel<T, Index>(g, pixels, at, v, u, mosaic, count, sums);
            }
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
  const auto prepared = [&](const Tensor& x) { return as_contiguous(to_type(x, type)); };
  const Tensor frames = as_contiguous(given_frames), positions = prepared(given_positions);
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
  m.impl("kernel_merge", MSR_BOX(&msr::kernel_merge_cpu));
}

// correlation on the CPU. Rows of pixels are packed plane by plane in the compute type, with zeros where nothing is: the
// innermost loop then has neither bounds nor strides nor conversions, whatever the layout. A thread goes down a column of
// tiles and packs each row once; the last rows, as many as the shifts reach over, stay in its cache.
#include "correlation.h"

#include <algorithm>

namespace msr::correlation {
namespace {

// ---- the inner loop ------------------------------------------------------------------------------------------------

#define MSR_TARGET
#define MSR_NAME sums_portable
#define MSR_BYTES 16
#include "correlation_body.h"
#undef MSR_TARGET
#undef MSR_NAME
#undef MSR_BYTES

#if defined(__x86_64__)
#define MSR_TARGET __attribute__((target("avx2,fma")))
#define MSR_NAME sums_avx2
#define MSR_BYTES 32
#include "correlation_body.h"
#undef MSR_TARGET
#undef MSR_NAME
#undef MSR_BYTES

#define MSR_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define MSR_NAME sums_avx512
#define MSR_BYTES 64
#include "correlation_body.h"
#undef MSR_TARGET
#undef MSR_NAME
#undef MSR_BYTES
#endif

constexpr int64_t kLargestGroup = 9;  // sums at once: the shifts of a row at radius 4; they fit in 16 registers

template <typename A>
using Sums = void (*)(const A* const*, const A* const*, int64_t, int64_t, int64_t, int64_t, A*, int64_t);

template <typename A, int G>
Sums<A> sums_of() {
#if defined(__x86_64__)
  if (simd() == Simd::avx512) return sums_avx512<A, G>;
  if (simd() == Simd::avx2) return sums_avx2<A, G>;
#endif
  return sums_portable<A, G>;
}

template <typename A>
Sums<A> sums(int64_t group) {
  static const Sums<A> table[kLargestGroup] = {sums_of<A, 1>(), sums_of<A, 2>(), sums_of<A, 3>(),
                                               sums_of<A, 4>(), sums_of<A, 5>(), sums_of<A, 6>(),
                                               sums_of<A, 7>(), sums_of<A, 8>(), sums_of<A, 9>()};
  return table[group - 1];
}

template <typename A>
int64_t vector_length() {
#if defined(__x86_64__)
  if (simd() == Simd::avx512) return 64 / sizeof(A);
  if (simd() == Simd::avx2) return 32 / sizeof(A);
#endif
  return 16 / sizeof(A);
}

// `count` rows of sums, row n with the right factors n * step further on, in groups as even as can be.
template <typename A>
void rows_of_sums(const std::vector<const A*>& left, const std::vector<const A*>& right, int64_t terms, int64_t count,
                  int64_t step, int64_t width, A* out, int64_t pitch) {
  const int64_t groups = (count + kLargestGroup - 1) / kLargestGroup, vector = vector_length<A>();
  for (int64_t x = 0; x < width; x += vector) {
    for (int64_t n = 0; n < groups; ++n) {
      const int64_t first = count * n / groups, last = count * (n + 1) / groups;
      sums<A>(last - first)(left.data(), right.data(), terms, step, first, x, out, pitch);
    }
  }
}

// ---- rows ----------------------------------------------------------------------------------------------------------

// `planes` rows of `count` values each, `pitch` apart: value u is column first + u * step of the image, 0 outside of it.
template <typename T>
MSR_HOST_DEVICE void pack(const T* row, const Strides& stride, int64_t planes, int64_t width, int64_t first, int64_t step,
                          compute_t<T>* to, int64_t pitch, int64_t count) {
  const int64_t begin = std::min(count, first < 0 ? (-first + step - 1) / step : 0);
  const int64_t end = std::max(begin, std::min(count, first < width ? (width - first + step - 1) / step : 0));
  const T* from = planes && begin < end ? row + first * stride.w : row;  // null where there is nothing to pack
  const int64_t distance = step * stride.w;
  for (int64_t c = 0; c < planes; ++c) {
    std::fill(to + c * pitch, to + c * pitch + begin, compute_t<T>(0));
    std::fill(to + c * pitch + end, to + c * pitch + count, compute_t<T>(0));
    if (distance != 1) continue;
    for (int64_t u = begin; u < end; ++u) to[c * pitch + u] = load(from[c * stride.c + u]);
  }
  if (distance == 1) return;
  constexpr int64_t kBlock = 16;  // columns whose channels stay in the nearest cache while they are transposed
  for (int64_t block = begin; block < end; block += kBlock) {
    const int64_t stop = std::min(end, block + kBlock);
    for (int64_t c = 0; c < planes; ++c)
      for (int64_t u = block; u < stop; ++u) to[c * pitch + u] = load(from[c * stride.c + u * distance]);
  }
}

// The same with step - 1 zeros between the values of the row: value u is what stands at column (first + u) / step, if any.
template <typename T>
MSR_HOST_DEVICE void spread(const T* row, const Strides& stride, int64_t planes, int64_t width, int64_t first,
                            int64_t step, compute_t<T>* to, int64_t pitch) {
  if (step == 1) return pack(row, stride, planes, width, first, 1, to, pitch, pitch);
  std::fill(to, to + planes * pitch, compute_t<T>(0));
  const int64_t begin = first < 0 ? 0 : (first + step - 1) / step;
  const int64_t end = std::min(width, (first + pitch + step - 1) / step);
  for (int64_t c = 0; c < planes; ++c)
    for (int64_t j = begin; j < end; ++j) to[c * pitch + j * step - first] = load(row[c * stride.c + j * stride.w]);
}

// The reverse: writes `count` columns of packed planes to an image, divided by `divisor`.
template <typename T>
MSR_HOST_DEVICE void unpack(const compute_t<T>* from, int64_t pitch, int64_t planes, int64_t count,
                            compute_t<T> divisor, T* row, const Strides& stride) {
  if (stride.w == 1) {
    for (int64_t c = 0; c < planes; ++c)
      for (int64_t u = 0; u < count; ++u) row[c * stride.c + u] = store<T>(from[c * pitch + u] / divisor);
    return;
  }
  constexpr int64_t kBlock = 16;
  for (int64_t block = 0; block < count; block += kBlock) {
    const int64_t stop = std::min(count, block + kBlock);
    for (int64_t c = 0; c < planes; ++c)
      for (int64_t u = block; u < stop; ++u)
        row[c * stride.c + u * stride.w] = store<T>(from[c * pitch + u] / divisor);
  }
}

// The packed rows that a thread needs again soon; row y stays until one that is `slots` rows further takes its place.
template <typename A>
class Ring {
 public:
  Ring(int64_t slots, int64_t size) : size_(size), held_(slots, -1), data_(slots * size), zeros_(size) {}

  void clear() { std::fill(held_.begin(), held_.end(), -1); }

  // Row y, filled by fill(y, place) where it is not here; zeros for one outside of the image.
  template <typename Fill>
  const A* row(int64_t y, int64_t height, const Fill& fill) {
    if (y < 0 || y >= height) return zeros_.data();
    const int64_t slot = y % static_cast<int64_t>(held_.size());
    A* place = data_.data() + slot * size_;
    if (held_[slot] != y) fill(y, place);
    held_[slot] = y;
    return place;
  }

 private:
  int64_t size_;
  std::vector<int64_t> held_;
  std::vector<A> data_, zeros_;
};

// How the columns of the result are cut into tiles, such that what a thread keeps fits into the second-level cache.
struct Tiles {
  int64_t width, count, pitch;

  Tiles(int64_t columns, int64_t bytes_per_column, int64_t halo) {
    constexpr int64_t kBytes = 640 * 1024, kWhole = 16;  // whole vectors of any instruction set
    const int64_t most = std::max<int64_t>(64, kBytes / std::max<int64_t>(1, bytes_per_column) - halo);
    const int64_t tiles = (columns + most - 1) / most;
    width = ((columns + tiles - 1) / tiles + kWhole - 1) / kWhole * kWhole;
    count = (columns + width - 1) / width;
    pitch = width + kWhole;  // one line of the cache more, lest all planes fall on the same few lines of it
  }
};

// body(image, first column, columns, row, whether a tile begins) for every row of every tile, in parallel.
template <typename MakeBody>
void each_row(int64_t batch, int64_t height, int64_t columns, const Tiles& tiles, int64_t operations,
              const MakeBody& make) {
  parallel(batch * tiles.count * height, operations, [&](int64_t begin, int64_t end) {
    auto body = make();
    for (int64_t n = begin; n < end; ++n) {
      const int64_t tile = n / height, first = tile % tiles.count * tiles.width;
      body(tile / tiles.count, first, std::min(tiles.width, columns - first), n % height, n % height == 0);
    }
  });
}

// ---- the three sums ------------------------------------------------------------------------------------------------

// The packed rows of b: stride phases of columns, so that the columns of neighbouring outputs are neighbours in each.
template <typename T>
class ShiftedRows {
  using A = compute_t<T>;

 public:
  ShiftedRows(const T* b, const Strides& stride, const Sizes& s, const Tiles& tiles)
      : b_(b), stride_(stride), s_(s), phase_(tiles.pitch + 2 * s.reach() / s.stride + 1), plane_(phase_ * s.stride),
        ring_(std::min(2 * s.reach() + 1, s.height), plane_ * s.channels) {}

  int64_t plane() const { return plane_; }
  void clear() { ring_.clear(); }

  const A* row(int64_t image, int64_t first, int64_t y) {
    return ring_.row(y, s_.height, [&](int64_t row, A* to) {
      const T* from = b_ + image * stride_.b + row * stride_.h;
      with_simd([&] {
        for (int64_t phase = 0; phase < s_.stride; ++phase)
          pack(from, stride_, s_.channels, s_.width, first * s_.stride - s_.reach() + phase, s_.stride,
               to + phase * phase_, plane_, phase_);
      });
    });
  }
  // Where in a packed row shift n (0..2r) along x of the first output lies.
  int64_t offset(int64_t n) const { return n * s_.dilation % s_.stride * phase_ + n * s_.dilation / s_.stride; }

 private:
  const T* b_;
  Strides stride_;
  Sizes s_;
  int64_t phase_, plane_;
  Ring<A> ring_;
};

template <typename T>
void forward(const T* a, const Strides& as, const T* b, const Strides& bs, T* out, const Strides& os, const Sizes& s) {
  using A = compute_t<T>;
  const Tiles tiles(s.out_width, (2 * s.reach() + 1) * s.channels * s.stride * sizeof(A), 2 * s.reach());
  each_row(s.batch, s.out_height, s.out_width, tiles, s.shifts() * s.channels * tiles.width, [&] {
    return [&, rows = ShiftedRows<T>(b, bs, s, tiles), source = std::vector<A>(s.channels * tiles.pitch),
            result = std::vector<A>(s.shifts() * tiles.pitch), left = std::vector<const A*>(s.channels),
            right = std::vector<const A*>(s.channels)](int64_t image, int64_t first, int64_t columns, int64_t i,
                                                       bool fresh) mutable {
      if (fresh) rows.clear();
      const T* from = a + image * as.b + i * s.stride * as.h;
      with_simd([&] {
        pack(from, as, s.channels, s.width, first * s.stride, s.stride, source.data(), tiles.pitch, tiles.pitch);
      });
      for (int64_t c = 0; c < s.channels; ++c) left[c] = source.data() + c * tiles.pitch;
      for (int64_t dy = 0; dy < s.side(); ++dy) {
        const A* row = rows.row(image, first, s.shifted(i, dy));
        A* to = result.data() + dy * s.side() * tiles.pitch;
        // With a stride the shifts along x lie in different phases, not at even distances.
        const int64_t together = s.stride == 1 ? s.side() : 1;
        for (int64_t dx = 0; dx < s.side(); dx += together) {
          for (int64_t c = 0; c < s.channels; ++c) right[c] = row + c * rows.plane() + rows.offset(dx);
          rows_of_sums(left, right, s.channels, together, s.dilation, columns, to + dx * tiles.pitch, tiles.pitch);
        }
      }
      with_simd([&] {
        unpack(result.data(), tiles.pitch, s.shifts(), columns, static_cast<A>(std::max<int64_t>(1, s.channels)),
               out + image * os.b + i * os.h + first * os.w, os);
      });
    };
  });
}

// The gradient of a: for each channel the sum over shifts of the output's gradient times b. Strides as = those of grad_a.
template <typename T>
void backward_a(const T* grad, const Strides& gs, const T* b, const Strides& bs, T* grad_a, const Strides& as,
                const Sizes& s) {
  using A = compute_t<T>;
  const Tiles tiles(s.out_width, (2 * s.reach() + 1) * s.channels * s.stride * sizeof(A), 2 * s.reach());
  each_row(s.batch, s.out_height, s.out_width, tiles, s.shifts() * s.channels * tiles.width, [&] {
    return [&, rows = ShiftedRows<T>(b, bs, s, tiles), outer = std::vector<A>(s.shifts() * tiles.pitch),
            result = std::vector<A>(s.channels * tiles.pitch), left = std::vector<const A*>(s.shifts()),
            right = std::vector<const A*>(s.shifts())](int64_t image, int64_t first, int64_t columns, int64_t i,
                                                       bool fresh) mutable {
      if (fresh) rows.clear();
      const T* from = grad + image * gs.b + i * gs.h;
      with_simd([&] {
        pack(from, gs, s.shifts(), s.out_width, first, 1, outer.data(), tiles.pitch, tiles.pitch);
      });
      for (int64_t k = 0; k < s.shifts(); ++k) {
        left[k] = outer.data() + k * tiles.pitch;
        right[k] = rows.row(image, first, s.shifted(i, k / s.side())) + rows.offset(k % s.side());
      }
      rows_of_sums(left, right, s.shifts(), s.channels, rows.plane(), columns, result.data(), tiles.pitch);
      const Strides to{as.b, as.c, as.h * s.stride, as.w * s.stride};
      with_simd([&] {
        unpack(result.data(), tiles.pitch, s.channels, columns, static_cast<A>(s.channels),
               grad_a + image * to.b + i * to.h + first * to.w, to);
      });
    };
  });
}

// The gradient of b: for each channel the sum over shifts of the output's gradient times a, both shifted back. Between the
// outputs of a stride both are packed as zeros.
template <typename T>
void backward_b(const T* grad, const Strides& gs, const T* a, const Strides& as, T* grad_b, const Strides& bs,
                const Sizes& s) {
  using A = compute_t<T>;
  const int64_t reach = s.reach(), planes = s.shifts() + s.channels;
  const Tiles tiles(s.width, (2 * reach + 1) * planes * sizeof(A), 2 * reach);
  const int64_t plane = tiles.pitch + 2 * reach;
  each_row(s.batch, s.height, s.width, tiles, s.shifts() * s.channels * tiles.width, [&] {
    return [&, ring = Ring<A>(std::min(2 * reach + 1, s.height), plane * planes),
            result = std::vector<A>(s.channels * tiles.pitch), left = std::vector<const A*>(s.shifts()),
            right = std::vector<const A*>(s.shifts())](int64_t image, int64_t first, int64_t columns, int64_t y,
                                                       bool fresh) mutable {
      if (fresh) ring.clear();
      const auto fill = [&](int64_t source, A* to) {
        const T* g = grad + image * gs.b + source / s.stride * gs.h;
        const T* from = a + image * as.b + source * as.h;
        const Strides every{as.b, as.c, as.h, as.w * s.stride};
        with_simd([&] {
          spread(g, gs, s.shifts(), s.out_width, first - reach, s.stride, to, plane);
          spread(from, every, s.channels, s.out_width, first - reach, s.stride, to + s.shifts() * plane, plane);
        });
      };
      int64_t terms = 0;
      for (int64_t dy = 0; dy < s.side(); ++dy) {
        const int64_t i = output_of(s, y, dy, s.out_height);
        if (i < 0) continue;
        const A* row = ring.row(i * s.stride, s.height, fill);
        for (int64_t dx = 0; dx < s.side(); ++dx, ++terms) {
          const int64_t back = (s.side() - 1 - dx) * s.dilation;
          left[terms] = row + (dy * s.side() + dx) * plane + back;
          right[terms] = row + s.shifts() * plane + back;
        }
      }
      rows_of_sums(left, right, terms, s.channels, plane, columns, result.data(), tiles.pitch);
      with_simd([&] {
        unpack(result.data(), tiles.pitch, s.channels, columns, static_cast<A>(s.channels),
               grad_b + image * bs.b + y * bs.h + first * bs.w, bs);
      });
    };
  });
}

}  // namespace
}  // namespace msr::correlation

namespace msr {

Tensor correlation_cpu(const Tensor& a, const Tensor& b, int64_t radius, int64_t stride, int64_t dilation) {
  using namespace correlation;
  const Sizes s = sizes(a, b, radius, stride, dilation);
  Tensor out = empty(a, {s.batch, s.shifts(), s.out_height, s.out_width}, a.scalar_type(), memory_format(a));
  if (out.numel() == 0) return out;
  dispatch_floating(a.scalar_type(), "correlation", [&](auto tag) {
    using T = typename decltype(tag)::type;
    forward(static_cast<const T*>(a.data_ptr()), strides(a), static_cast<const T*>(b.data_ptr()), strides(b),
            static_cast<T*>(out.data_ptr()), strides(out), s);
  });
  return out;
}

std::tuple<Tensor, Tensor> correlation_backward_cpu(const Tensor& input_grad, const Tensor& a, const Tensor& b,
                                                    int64_t radius, int64_t stride, int64_t dilation) {
  using namespace correlation;
  const Sizes s = sizes(a, b, radius, stride, dilation);
  check_grad(input_grad, s);
  const ScalarType type = a.scalar_type();
  Tensor grad_a = empty(a, {s.batch, s.channels, s.height, s.width}, type, memory_format(a));
  Tensor grad_b = empty(b, {s.batch, s.channels, s.height, s.width}, type, memory_format(b));
  if (a.numel() == 0) return {grad_a, grad_b};
  if (stride > 1) torch::stable::zero_(grad_a);
  const Tensor grad = to_type(input_grad, type);
  dispatch_floating(type, "correlation", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* g = static_cast<const T*>(grad.data_ptr());
    const T* from_a = static_cast<const T*>(a.data_ptr());
    const T* from_b = static_cast<const T*>(b.data_ptr());
    backward_a(g, strides(grad), from_b, strides(b), static_cast<T*>(grad_a.data_ptr()), strides(grad_a), s);
    backward_b(g, strides(grad), from_a, strides(a), static_cast<T*>(grad_b.data_ptr()), strides(grad_b), s);
  });
  return {grad_a, grad_b};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) {
  m.impl("correlation", MSR_BOX(&msr::correlation_cpu));
  m.impl("correlation_backward", MSR_BOX(&msr::correlation_backward_cpu));
}

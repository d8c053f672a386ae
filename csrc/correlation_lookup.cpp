// correlation_lookup on the CPU. Features lie channels_last (b is read at any place, so its channels must be neighbours; NCHW
// is brought there first): every product is a sum over two rows of channels.
#include "correlation_lookup.h"

#include <algorithm>

namespace msr::correlation_lookup {
namespace {

template <typename C>
struct Places {
  const C* coords;  // (B, 2, H, W), contiguous

  MSR_HOST_DEVICE Window<C> window(int64_t b, int64_t n, const Sizes& s) const {
    const C* of_image = coords + b * 2 * s.pixels();
    return correlation_lookup::window(of_image[n], of_image[s.pixels() + n], s);
  }
};

// The means of products at all whole places of a window; 0 outside of b.
template <typename T>
MSR_HOST_DEVICE void products(const T* a, const T* b, const Window<compute_t<T>>& w, const Sizes& s,
                              compute_t<T>* whole) {
  using C = compute_t<T>;
  for (int64_t row = 0; row < s.whole_side(); ++row) {
    for (int64_t column = 0; column < s.whole_side(); ++column) {
      C sum = C(0);
      if (w.inside(row, column, s)) {
        const T* other = b + ((w.top + row) * s.b_width + w.left + column) * s.channels;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < s.channels; ++c) sum += load(a[c]) * load(other[c]);
      }
      whole[row * s.whole_side() + column] = sum / static_cast<C>(s.channels);
    }
  }
}

template <typename T>
void forward(const T* a, const T* b, const Places<compute_t<T>>& places, T* out, const Strides& os, const Sizes& s) {
  using C = compute_t<T>;
  parallel(s.batch * s.pixels(), s.places() * s.channels, [&](int64_t begin, int64_t end) {
    std::vector<C> whole(s.places());
    with_simd([&] {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t image = n / s.pixels(), pixel = n % s.pixels();
        const auto w = places.window(image, pixel, s);
        products(a + n * s.channels, b + image * s.b_height * s.b_width * s.channels, w, s, whole.data());
        T* to = out + image * os.b + pixel / s.width * os.h + pixel % s.width * os.w;
        for (int64_t dy = 0; dy < s.side(); ++dy)
          for (int64_t dx = 0; dx < s.side(); ++dx)
            to[(dy * s.side() + dx) * os.c] = store<T>(mix(whole.data(), w, dy, dx, s));
      }
    });
  });
}

// Reads the gradients of the results at one pixel.
template <typename T>
struct GradAt {
  const T* data;
  int64_t stride;

  GradAt(const T* grad, const Strides& gs, int64_t image, int64_t pixel, const Sizes& s)
      : data(grad + image * gs.b + pixel / s.width * gs.h + pixel % s.width * gs.w), stride(gs.c) {}
  MSR_HOST_DEVICE compute_t<T> operator()(int64_t shift) const { return load(data[shift * stride]); }
};

// The gradients of a and of the coordinates: both are gathered, pixel by pixel.
template <typename T>
void backward_a(const T* grad, const Strides& gs, const T* a, const T* b, const Places<compute_t<T>>& places, T* grad_a,
                compute_t<T>* grad_coords, const Sizes& s) {
  using C = compute_t<T>;
  parallel(s.batch * s.pixels(), 2 * s.places() * s.channels, [&](int64_t begin, int64_t end) {
    std::vector<C> whole(s.places()), sums(s.channels);
    with_simd([&] {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t image = n / s.pixels(), pixel = n % s.pixels();
        const auto w = places.window(image, pixel, s);
        const GradAt<T> outer(grad, gs, image, pixel, s);
        const T* of_image = b + image * s.b_height * s.b_width * s.channels;
        products(a + n * s.channels, of_image, w, s, whole.data());
        C to_x = C(0), to_y = C(0);
        for (int64_t dy = 0; dy < s.side(); ++dy)
          for (int64_t dx = 0; dx < s.side(); ++dx)
            add_slope(outer(dy * s.side() + dx), whole.data(), w, dy, dx, s, to_x, to_y);
        grad_coords[image * 2 * s.pixels() + pixel] = to_x;
        grad_coords[(image * 2 + 1) * s.pixels() + pixel] = to_y;
        std::fill(sums.begin(), sums.end(), C(0));
        for (int64_t place = 0; place < s.places(); ++place) {
          const int64_t row = place / s.whole_side(), column = place % s.whole_side();
          if (!w.inside(row, column, s)) continue;
          const C value = unmix<C>(outer, w, row, column, s) / static_cast<C>(s.channels);
          const T* other = of_image + ((w.top + row) * s.b_width + w.left + column) * s.channels;
          C* to = sums.data();
#pragma omp simd
          for (int64_t c = 0; c < s.channels; ++c) to[c] += value * load(other[c]);
        }
        for (int64_t c = 0; c < s.channels; ++c) grad_a[n * s.channels + c] = store<T>(sums[c]);
      }
    });
  });
}

// The gradient of b is scattered: a thread owns some channels of an image, so that no two add to the same place.
template <typename T>
void backward_b(const T* grad, const Strides& gs, const T* a, const Places<compute_t<T>>& places, compute_t<T>* grad_b,
                const Sizes& s) {
  using C = compute_t<T>;
  const int64_t threads = torch::stable::get_num_threads(), wanted = (threads + s.batch - 1) / s.batch;
  const int64_t share = ((s.channels + wanted - 1) / wanted + 15) / 16 * 16, shares = (s.channels + share - 1) / share;
  torch::stable::parallel_for(0, s.batch * shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / shares, first = task % shares * share, last = std::min(first + share, s.channels);
      with_simd([&] {
        for (int64_t pixel = 0; pixel < s.pixels(); ++pixel) {
          const auto w = places.window(image, pixel, s);
          const GradAt<T> outer(grad, gs, image, pixel, s);
          const T* from = a + (image * s.pixels() + pixel) * s.channels;
          for (int64_t place = 0; place < s.places(); ++place) {
            const int64_t row = place / s.whole_side(), column = place % s.whole_side();
            if (!w.inside(row, column, s)) continue;
            const C value = unmix<C>(outer, w, row, column, s) / static_cast<C>(s.channels);
            C* to = grad_b + ((image * s.b_height + w.top + row) * s.b_width + w.left + column) * s.channels;
#pragma omp simd
            for (int64_t c = first; c < last; ++c) to[c] += value * load(from[c]);
          }
        }
      });
    }
  });
}

inline Tensor rows_of_channels(const Tensor& x) { return as_contiguous(x, MemoryFormat::ChannelsLast); }

}  // namespace
}  // namespace msr::correlation_lookup

namespace msr {

Tensor correlation_lookup_cpu(const Tensor& input_a, const Tensor& input_b, const Tensor& input_coords, int64_t radius) {
  using namespace correlation_lookup;
  const Sizes s = sizes(input_a, input_b, input_coords, radius);
  const ScalarType type = input_a.scalar_type();
  Tensor out = empty(input_a, {s.batch, s.shifts(), s.height, s.width}, type, memory_format(input_a));
  if (input_a.numel() == 0 || input_b.numel() == 0) return torch::stable::zero_(out);
  const Tensor a = rows_of_channels(input_a), b = rows_of_channels(input_b);
  const Tensor coords = as_contiguous(to_type(input_coords, compute_type(type)));
  dispatch_floating(type, "correlation_lookup", [&](auto tag) {
    using T = typename decltype(tag)::type;
    forward(static_cast<const T*>(a.data_ptr()), static_cast<const T*>(b.data_ptr()),
            Places<compute_t<T>>{static_cast<const compute_t<T>*>(coords.data_ptr())}, static_cast<T*>(out.data_ptr()),
            strides(out), s);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> correlation_lookup_backward_cpu(const Tensor& input_grad, const Tensor& input_a,
                                                                   const Tensor& input_b, const Tensor& input_coords,
                                                                   int64_t radius) {
  using namespace correlation_lookup;
  const Sizes s = sizes(input_a, input_b, input_coords, radius);
  check_grad(input_grad, s);
  const ScalarType type = input_a.scalar_type(), compute = compute_type(type);
  Tensor grad_a = empty(input_a, {s.batch, s.channels, s.height, s.width}, type, MemoryFormat::ChannelsLast);
  Tensor grad_b = empty(input_b, {s.batch, s.channels, s.b_height, s.b_width}, compute, MemoryFormat::ChannelsLast);
  Tensor grad_coords = empty(input_a, {s.batch, 2, s.height, s.width}, compute);
  torch::stable::zero_(grad_b);
  if (input_a.numel() == 0 || input_b.numel() == 0) {
    torch::stable::zero_(grad_a);
    torch::stable::zero_(grad_coords);
  } else {
    const Tensor a = rows_of_channels(input_a), b = rows_of_channels(input_b), grad = to_type(input_grad, type);
    const Tensor coords = as_contiguous(to_type(input_coords, compute));
    dispatch_floating(type, "correlation_lookup", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using C = compute_t<T>;
      const T* g = static_cast<const T*>(grad.data_ptr());
      const T* from = static_cast<const T*>(a.data_ptr());
      const Places<C> places{static_cast<const C*>(coords.data_ptr())};
      backward_a(g, strides(grad), from, static_cast<const T*>(b.data_ptr()), places, static_cast<T*>(grad_a.data_ptr()),
                 static_cast<C*>(grad_coords.data_ptr()), s);
      backward_b(g, strides(grad), from, places, static_cast<C*>(grad_b.data_ptr()), s);
    });
  }
  return {as_contiguous(grad_a, memory_format(input_a)),
          as_contiguous(to_type(grad_b, type), memory_format(input_b)),
          to_type(grad_coords, input_coords.scalar_type())};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) {
  m.impl("correlation_lookup", MSR_BOX(&msr::correlation_lookup_cpu));
  m.impl("correlation_lookup_backward", MSR_BOX(&msr::correlation_lookup_backward_cpu));
}

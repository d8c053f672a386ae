// correlation_lookup on CUDA. A block owns one pixel at a time: its threads share the channels of a and the whole places of
// the window, then the shifts. The products stay in shared memory, so nothing of the size of a volume is made. The gradient
// of b is scattered by atomic additions; where results must be the same in every run, the reference computes it.
#include "correlation_lookup.h"

namespace msr::correlation_lookup {
namespace {

constexpr int kBlock = 128;  // threads a pixel: (2r + 2)^2 = 100 places at radius 4

// Calls body(image, pixel) for the pixels of this block; all threads of a block take the same turns.
template <typename Body>
__device__ __forceinline__ void each_pixel(const Sizes& s, const Body& body) {
  for (int64_t n = blockIdx.x; n < s.batch * s.pixels(); n += gridDim.x) body(n / s.pixels(), n % s.pixels());
}

template <typename C>
__device__ __forceinline__ Window<C> window_at(const C* coords, int64_t image, int64_t pixel, const Sizes& s) {
  const C* of_image = coords + image * 2 * s.pixels();
  return window(of_image[pixel], of_image[s.pixels() + pixel], s);
}

MSR_HOST_DEVICE int64_t offset(const Strides& stride, int64_t image, int64_t row, int64_t column) {
  return image * stride.b + row * stride.h + column * stride.w;
}

// The channels of a at a pixel and the means of products at all whole places, in shared memory; ends with a barrier.
template <typename T>
__device__ __forceinline__ void load_products(const T* a, const Strides& as, const T* b, const Strides& bs,
                                              const Window<compute_t<T>>& w, int64_t image, int64_t pixel, const Sizes& s,
                                              compute_t<T>* left, compute_t<T>* whole) {
  using C = compute_t<T>;
  const T* from = a + offset(as, image, pixel / s.width, pixel % s.width);
  __syncthreads();  // the values of the pixel before may still be read
  for (int64_t c = threadIdx.x; c < s.channels; c += blockDim.x) left[c] = static_cast<C>(from[c * as.c]);
  __syncthreads();
  for (int64_t place = threadIdx.x; place < s.places(); place += blockDim.x) {
    const int64_t row = place / s.whole_side(), column = place % s.whole_side();
    C sum = C(0);
    if (w.inside(row, column, s)) {
      const T* other = b + offset(bs, image, w.top + row, w.left + column);
      for (int64_t c = 0; c < s.channels; ++c) sum += left[c] * static_cast<C>(other[c * bs.c]);
    }
    whole[place] = sum / static_cast<C>(s.channels);
  }
  __syncthreads();
}

template <typename T>
__global__ void correlation_lookup_kernel(const T* a, Strides as, const T* b, Strides bs, const compute_t<T>* coords,
                                          T* out, Strides os, Sizes s) {
  using C = compute_t<T>;
  C* const left = dynamic_shared<C>();
  C* const whole = left + s.channels;
  each_pixel(s, [&](int64_t image, int64_t pixel) {
    const auto w = window_at(coords, image, pixel, s);
    load_products(a, as, b, bs, w, image, pixel, s, left, whole);
    T* to = out + offset(os, image, pixel / s.width, pixel % s.width);
    for (int64_t k = threadIdx.x; k < s.shifts(); k += blockDim.x)
      to[k * os.c] = static_cast<T>(mix(whole, w, k / s.side(), k % s.side(), s));
  });
}

// grad_b is of the compute type and zero before.
template <typename T>
__global__ void correlation_lookup_backward_kernel(const T* grad, Strides gs, const T* a, Strides as, const T* b,
                                                   Strides bs, const compute_t<T>* coords, T* grad_a, Strides to_a,
                                                   compute_t<T>* grad_b, Strides to_b, compute_t<T>* grad_coords, Sizes s) {
  using C = compute_t<T>;
  MSR_SHARED(C, sums, [2][kBlock]);
  C* const left = dynamic_shared<C>();
  C* const whole = left + s.channels;
  C* const values = whole + s.places();
  each_pixel(s, [&](int64_t image, int64_t pixel) {
    const auto w = window_at(coords, image, pixel, s);
    load_products(a, as, b, bs, w, image, pixel, s, left, whole);
    const T* outer = grad + offset(gs, image, pixel / s.width, pixel % s.width);
    C to_x = C(0), to_y = C(0);
    for (int64_t k = threadIdx.x; k < s.shifts(); k += blockDim.x)
      add_slope(static_cast<C>(outer[k * gs.c]), whole, w, k / s.side(), k % s.side(), s, to_x, to_y);
    sums[0][threadIdx.x] = to_x;
    sums[1][threadIdx.x] = to_y;
    const auto of_shift = [&](int64_t k) { return static_cast<C>(outer[k * gs.c]); };
    for (int64_t place = threadIdx.x; place < s.places(); place += blockDim.x)
      values[place] = unmix<C>(of_shift, w, place / s.whole_side(), place % s.whole_side(), s) /
                      static_cast<C>(s.channels);
    for (int half = kBlock / 2; half > 0; half /= 2) {
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < half) {
        sums[0][threadIdx.x] += sums[0][threadIdx.x + half];
        sums[1][threadIdx.x] += sums[1][threadIdx.x + half];
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      grad_coords[image * 2 * s.pixels() + pixel] = sums[0][0];
      grad_coords[(image * 2 + 1) * s.pixels() + pixel] = sums[1][0];
    }
    for (int64_t c = threadIdx.x; c < s.channels; c += blockDim.x) {
      C sum = C(0);
      for (int64_t place = 0; place < s.places(); ++place) {
        const int64_t row = place / s.whole_side(), column = place % s.whole_side();
        if (!w.inside(row, column, s)) continue;
        sum += values[place] * static_cast<C>(b[offset(bs, image, w.top + row, w.left + column) + c * bs.c]);
        atomicAdd(grad_b + offset(to_b, image, w.top + row, w.left + column) + c * to_b.c, values[place] * left[c]);
      }
      grad_a[offset(to_a, image, pixel / s.width, pixel % s.width) + c * to_a.c] = static_cast<T>(sum);
    }
  });
}

dim3 blocks_of(const Sizes& s) {
  const int64_t pixels = s.batch * s.pixels();
  return dim3(static_cast<unsigned>(pixels < (1 << 30) ? pixels : (1 << 30)));
}

// What a launch may ask for without leave on every GPU.
size_t shared_bytes(int64_t numbers, ScalarType compute, const Sizes& s) {
  const size_t bytes = static_cast<size_t>(numbers) * (compute == ScalarType::Double ? 8 : 4);
  MSR_CHECK(bytes <= 44 * 1024, "correlation_lookup: ", s.channels, " channels and radius ", s.radius,
            " are more than a block of a GPU can hold");
  return bytes;
}

}  // namespace
}  // namespace msr::correlation_lookup

namespace msr {

Tensor correlation_lookup_cuda(const Tensor& a, const Tensor& b, const Tensor& input_coords, int64_t radius) {
  using namespace correlation_lookup;
  const Sizes s = sizes(a, b, input_coords, radius);
  const ScalarType type = a.scalar_type(), compute = compute_type(type);
  Tensor out = empty(a, {s.batch, s.shifts(), s.height, s.width}, type, memory_format(a));
  if (a.numel() == 0 || b.numel() == 0) return torch::stable::zero_(out);
  const Tensor coords = as_contiguous(to_type(input_coords, compute));
  dispatch_floating(type, "correlation_lookup", [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(correlation_lookup_kernel<T>, blocks_of(s), dim3(kBlock), shared_bytes(s.channels + s.places(), compute, s), a,
           static_cast<const T*>(a.data_ptr()), strides(a), static_cast<const T*>(b.data_ptr()), strides(b),
           static_cast<const compute_t<T>*>(coords.data_ptr()), static_cast<T*>(out.data_ptr()), strides(out), s);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> correlation_lookup_backward_cuda(const Tensor& input_grad, const Tensor& a,
                                                                    const Tensor& b, const Tensor& input_coords,
                                                                    int64_t radius) {
  using namespace correlation_lookup;
  const Sizes s = sizes(a, b, input_coords, radius);
  check_grad(input_grad, s);
  const ScalarType type = a.scalar_type(), compute = compute_type(type);
  Tensor grad_a = empty(a, {s.batch, s.channels, s.height, s.width}, type, memory_format(a));
  Tensor grad_b = empty(b, {s.batch, s.channels, s.b_height, s.b_width}, compute, memory_format(b));
  Tensor grad_coords = empty(a, {s.batch, 2, s.height, s.width}, compute);
  torch::stable::zero_(grad_b);
  if (a.numel() == 0 || b.numel() == 0) {
    torch::stable::zero_(grad_a);
    torch::stable::zero_(grad_coords);
  } else {
    const Tensor grad = to_type(input_grad, type);
    const Tensor coords = as_contiguous(to_type(input_coords, compute));
    dispatch_floating(type, "correlation_lookup", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using C = compute_t<T>;
      launch(correlation_lookup_backward_kernel<T>, blocks_of(s), dim3(kBlock),
             shared_bytes(s.channels + 2 * s.places(), compute, s), a, static_cast<const T*>(grad.data_ptr()),
             strides(grad), static_cast<const T*>(a.data_ptr()), strides(a), static_cast<const T*>(b.data_ptr()),
             strides(b), static_cast<const C*>(coords.data_ptr()), static_cast<T*>(grad_a.data_ptr()), strides(grad_a),
             static_cast<C*>(grad_b.data_ptr()), strides(grad_b), static_cast<C*>(grad_coords.data_ptr()), s);
    });
  }
  return {grad_a, to_type(grad_b, type), to_type(grad_coords, input_coords.scalar_type())};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CUDA, m) {
  m.impl("correlation_lookup", MSR_BOX(&msr::correlation_lookup_cuda));
  m.impl("correlation_lookup_backward", MSR_BOX(&msr::correlation_lookup_backward_cuda));
}

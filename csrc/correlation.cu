// correlation on CUDA.
// Forward, stride and dilation 1, radius 1 to 4: a block owns a tile of outputs and all shifts; the channels pass through
// shared memory a few at a time. A thread owns four neighbouring outputs and the shifts of one row (dy): the values of b
// that it reads once serve all of its (2r + 1) x 4 sums.
// Other forwards: a thread an output. Gradients: a thread gathers one pixel of a few channels; nothing is scattered, so every
// result is the same from run to run.
#include "correlation.h"

namespace msr::correlation {
namespace {

constexpr int kRun = 4;           // outputs of a thread, side by side
constexpr int kTileRuns = 8;      // runs along a row of the tile
constexpr int kTileRows = 4;      // rows of the tile
constexpr int kTileWidth = kRun * kTileRuns;
constexpr int kChunk = 8;         // channels in shared memory at once
constexpr int kChannelsPerThread = 8;  // gradients, NCHW: a value of the output's gradient is read once for so many

// Loads `planes` channels of a window of `rows` x `columns` pixels from (y, x) on, 0 outside of the image; neighbouring
// threads read what is neighbouring in memory.
template <int Rows, int Columns, int Pitch, typename T>
__device__ __forceinline__ void load_window(const T* image, const Strides& stride, const Sizes& s, int64_t first_channel,
                                            int64_t y, int64_t x, compute_t<T>* to) {
  const int thread = threadIdx.x, threads = blockDim.x;
  constexpr int kPixels = Rows * Columns;
  const bool channels_first = stride.c == 1;  // channels are what is neighbouring
  for (int n = thread; n < kChunk * kPixels; n += threads) {
    const int c = channels_first ? n % kChunk : n / kPixels, pixel = channels_first ? n / kChunk : n % kPixels;
    const int64_t row = y + pixel / Columns, column = x + pixel % Columns, channel = first_channel + c;
    const bool inside = channel < s.channels && row >= 0 && row < s.height && column >= 0 && column < s.width;
    to[(c * Rows + pixel / Columns) * Pitch + pixel % Columns] =
        inside ? static_cast<compute_t<T>>(image[channel * stride.c + row * stride.h + column * stride.w])
               : compute_t<T>(0);
  }
}

template <int R, typename T>
__global__ void __launch_bounds__(kTileRuns* kTileRows*(2 * R + 1))
    correlation_tile_kernel(const T* a, Strides as, const T* b, Strides bs, T* out, Strides os, Sizes s) {
  using C = compute_t<T>;
  constexpr int kSide = 2 * R + 1, kRowsB = kTileRows + 2 * R, kColumnsB = kTileWidth + 2 * R;
  MSR_SHARED(C, tile_a, [kChunk * kTileRows * kTileWidth]);
  MSR_SHARED(C, tile_b, [kChunk * kRowsB * kColumnsB]);
  const int run = threadIdx.x % kTileRuns, row = threadIdx.x / kTileRuns % kTileRows;
  const int dy = threadIdx.x / (kTileRuns * kTileRows);
  const int64_t across = (s.width + kTileWidth - 1) / kTileWidth, down = (s.height + kTileRows - 1) / kTileRows;
  for (int64_t tile = blockIdx.x; tile < s.batch * down * across; tile += gridDim.x) {
    const int64_t image = tile / (down * across);
    const int64_t y = tile / across % down * kTileRows, x = tile % across * kTileWidth;
    C sum[kSide][kRun];
#pragma unroll
    for (int dx = 0; dx < kSide; ++dx)
#pragma unroll
      for (int n = 0; n < kRun; ++n) sum[dx][n] = C(0);
    for (int64_t first = 0; first < s.channels; first += kChunk) {
      __syncthreads();  // the values of the channels before may still be read
      load_window<kTileRows, kTileWidth, kTileWidth>(a + image * as.b, as, s, first, y, x, tile_a);
      load_window<kRowsB, kColumnsB, kColumnsB>(b + image * bs.b, bs, s, first, y - R, x - R, tile_b);
      __syncthreads();
#pragma unroll 2
      for (int c = 0; c < kChunk; ++c) {
        const C* from_a = tile_a + (c * kTileRows + row) * kTileWidth + run * kRun;
        const C* from_b = tile_b + (c * kRowsB + row + dy) * kColumnsB + run * kRun;
        C left[kRun], right[kRun + 2 * R];
#pragma unroll
        for (int n = 0; n < kRun; ++n) left[n] = from_a[n];
#pragma unroll
        for (int n = 0; n < kRun + 2 * R; ++n) right[n] = from_b[n];
#pragma unroll
        for (int dx = 0; dx < kSide; ++dx)
#pragma unroll
          for (int n = 0; n < kRun; ++n) sum[dx][n] += left[n] * right[n + dx];
      }
    }
    if (y + row < s.height) {
      const C channels = static_cast<C>(s.channels > 0 ? s.channels : 1);
      T* to = out + image * os.b + dy * kSide * os.c + (y + row) * os.h;
#pragma unroll
      for (int dx = 0; dx < kSide; ++dx)
#pragma unroll
        for (int n = 0; n < kRun; ++n) {
          const int64_t column = x + run * kRun + n;
          if (column < s.width) to[dx * os.c + column * os.w] = static_cast<T>(sum[dx][n] / channels);
        }
    }
  }
}

// Any radius, stride and dilation.
template <typename T>
__global__ void correlation_kernel(const T* a, Strides as, const T* b, Strides bs, T* out, Strides os, Sizes s) {
  using C = compute_t<T>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t count = s.batch * s.shifts() * s.out_pixels();
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; n < count; n += step) {
    const int64_t j = n % s.out_width, i = n / s.out_width % s.out_height;
    const int64_t k = n / s.out_pixels() % s.shifts(), image = n / (s.out_pixels() * s.shifts());
    const int64_t y = s.shifted(i, k / s.side()), x = s.shifted(j, k % s.side());
    const bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width;
    const T* left = a + image * as.b + i * s.stride * as.h + j * s.stride * as.w;
    const T* right = b + image * bs.b + y * bs.h + x * bs.w;
    C sum = C(0);
    for (int64_t c = 0; c < s.channels; ++c)
      sum += static_cast<C>(left[c * as.c]) * (inside ? static_cast<C>(right[c * bs.c]) : C(0));
    out[image * os.b + k * os.c + i * os.h + j * os.w] =
        static_cast<T>(sum / static_cast<C>(s.channels > 0 ? s.channels : 1));
  }
}

// Calls body(image, first channel, y, x) for what this thread owns of the gradient of a or b: kChannelsPerThread channels of
// a pixel, neighbouring threads neighbouring pixels (NCHW) or neighbouring channels, one each (channels_last).
template <bool ChannelsLast, typename Body>
__device__ __forceinline__ void each_owned(const Sizes& s, const Body& body) {
  constexpr int kOwned = ChannelsLast ? 1 : kChannelsPerThread;
  const int64_t groups = (s.channels + kOwned - 1) / kOwned, count = s.batch * groups * s.pixels();
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; n < count; n += step) {
    const int64_t group = ChannelsLast ? n % groups : n / s.pixels() % groups;
    const int64_t pixel = ChannelsLast ? n / groups % s.pixels() : n % s.pixels();
    body(n / (groups * s.pixels()), group * kOwned, pixel / s.width, pixel % s.width);
  }
}

// Adds value * image[channel][position] to the sums of the channels that this thread owns.
template <int Owned, typename T>
__device__ __forceinline__ void add_products(compute_t<T> (&sums)[Owned], compute_t<T> value, const T* pixel,
                                             int64_t stride_c, int64_t first, int64_t channels) {
#pragma unroll
  for (int n = 0; n < Owned; ++n)
    if (first + n < channels) sums[n] += value * static_cast<compute_t<T>>(pixel[(first + n) * stride_c]);
}

template <int Owned, typename T>
__device__ __forceinline__ void write_sums(const compute_t<T> (&sums)[Owned], T* pixel, int64_t stride_c, int64_t first,
                                           int64_t channels) {
#pragma unroll
  for (int n = 0; n < Owned; ++n)
    if (first + n < channels)
      pixel[(first + n) * stride_c] = static_cast<T>(sums[n] / static_cast<compute_t<T>>(channels));
}

template <bool ChannelsLast, typename T>
__global__ void correlation_backward_a_kernel(const T* grad, Strides gs, const T* b, Strides bs, T* grad_a, Strides as,
                                              Sizes s) {
  using C = compute_t<T>;
  constexpr int kOwned = ChannelsLast ? 1 : kChannelsPerThread;
  each_owned<ChannelsLast>(s, [&](int64_t image, int64_t first, int64_t y, int64_t x) {
    C sums[kOwned] = {};
    if (y % s.stride == 0 && x % s.stride == 0) {
      const T* outer = grad + image * gs.b + y / s.stride * gs.h + x / s.stride * gs.w;
      for (int64_t k = 0; k < s.shifts(); ++k, outer += gs.c) {
        const int64_t v = s.shifted(y / s.stride, k / s.side()), u = s.shifted(x / s.stride, k % s.side());
        const C value = static_cast<C>(*outer);
        if (v >= 0 && v < s.height && u >= 0 && u < s.width)
          add_products<kOwned, T>(sums, value, b + image * bs.b + v * bs.h + u * bs.w, bs.c, first, s.channels);
      }
    }
    write_sums<kOwned, T>(sums, grad_a + image * as.b + y * as.h + x * as.w, as.c, first, s.channels);
  });
}

template <bool ChannelsLast, typename T>
__global__ void correlation_backward_b_kernel(const T* grad, Strides gs, const T* a, Strides as, T* grad_b, Strides bs,
                                              Sizes s) {
  using C = compute_t<T>;
  constexpr int kOwned = ChannelsLast ? 1 : kChannelsPerThread;
  each_owned<ChannelsLast>(s, [&](int64_t image, int64_t first, int64_t y, int64_t x) {
    C sums[kOwned] = {};
    for (int64_t dy = 0; dy < s.side(); ++dy) {
      const int64_t i = output_of(s, y, dy, s.out_height);
      if (i < 0) continue;
      for (int64_t dx = 0; dx < s.side(); ++dx) {
        const int64_t j = output_of(s, x, dx, s.out_width);
        if (j < 0) continue;
        const C value = static_cast<C>(grad[image * gs.b + (dy * s.side() + dx) * gs.c + i * gs.h + j * gs.w]);
        add_products<kOwned, T>(sums, value, a + image * as.b + i * s.stride * as.h + j * s.stride * as.w, as.c, first,
                                s.channels);
      }
    }
    write_sums<kOwned, T>(sums, grad_b + image * bs.b + y * bs.h + x * bs.w, bs.c, first, s.channels);
  });
}

template <int R, typename T>
void launch_tiles(const Tensor& a, const Tensor& b, const Tensor& out, const Sizes& s) {
  const int64_t tiles = s.batch * ((s.height + kTileRows - 1) / kTileRows) * ((s.width + kTileWidth - 1) / kTileWidth);
  const dim3 grid(static_cast<unsigned>(tiles < (1 << 30) ? tiles : (1 << 30)));
  launch(correlation_tile_kernel<R, T>, grid, dim3(kTileRuns * kTileRows * (2 * R + 1)), 0, a,
         static_cast<const T*>(a.data_ptr()), strides(a), static_cast<const T*>(b.data_ptr()), strides(b),
         static_cast<T*>(out.data_ptr()), strides(out), s);
}

template <typename T>
void forward(const Tensor& a, const Tensor& b, const Tensor& out, const Sizes& s) {
  const bool tiles = s.stride == 1 && s.dilation == 1;
  if (tiles && s.radius == 1) return launch_tiles<1, T>(a, b, out, s);
  if (tiles && s.radius == 2) return launch_tiles<2, T>(a, b, out, s);
  if (tiles && s.radius == 3) return launch_tiles<3, T>(a, b, out, s);
  if (tiles && s.radius == 4) return launch_tiles<4, T>(a, b, out, s);
  launch(correlation_kernel<T>, blocks_for(s.batch * s.shifts() * s.out_pixels()), dim3(kThreads), 0, a,
         static_cast<const T*>(a.data_ptr()), strides(a), static_cast<const T*>(b.data_ptr()), strides(b),
         static_cast<T*>(out.data_ptr()), strides(out), s);
}

dim3 gradient_blocks(const Sizes& s, bool channels_last) {
  const int64_t owned = channels_last ? 1 : kChannelsPerThread;
  return blocks_for(s.batch * s.pixels() * ((s.channels + owned - 1) / owned));
}

}  // namespace
}  // namespace msr::correlation

namespace msr {

Tensor correlation_cuda(const Tensor& a, const Tensor& b, int64_t radius, int64_t stride, int64_t dilation) {
  using namespace correlation;
  const Sizes s = sizes(a, b, radius, stride, dilation);
  Tensor out = empty(a, {s.batch, s.shifts(), s.out_height, s.out_width}, a.scalar_type(), memory_format(a));
  if (out.numel() == 0) return out;
  dispatch_floating(a.scalar_type(), "correlation",
                    [&](auto tag) { forward<typename decltype(tag)::type>(a, b, out, s); });
  return out;
}

std::tuple<Tensor, Tensor> correlation_backward_cuda(const Tensor& input_grad, const Tensor& a, const Tensor& b,
                                                     int64_t radius, int64_t stride, int64_t dilation) {
  using namespace correlation;
  const Sizes s = sizes(a, b, radius, stride, dilation);
  check_grad(input_grad, s);
  const ScalarType type = a.scalar_type();
  Tensor grad_a = empty(a, {s.batch, s.channels, s.height, s.width}, type, memory_format(a));
  Tensor grad_b = empty(b, {s.batch, s.channels, s.height, s.width}, type, memory_format(b));
  if (a.numel() == 0) return {grad_a, grad_b};
  const Tensor grad = to_type(input_grad, type);
  dispatch_floating(type, "correlation", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto gradient = [&](auto last_kernel, auto plane_kernel, const Tensor& from, const Tensor& to) {
      const bool last = is_channels_last(to);
      launch(last ? last_kernel : plane_kernel, gradient_blocks(s, last), dim3(kThreads), 0, a,
             static_cast<const T*>(grad.data_ptr()), strides(grad), static_cast<const T*>(from.data_ptr()), strides(from),
             static_cast<T*>(to.data_ptr()), strides(to), s);
    };
    gradient(correlation_backward_a_kernel<true, T>, correlation_backward_a_kernel<false, T>, b, grad_a);
    gradient(correlation_backward_b_kernel<true, T>, correlation_backward_b_kernel<false, T>, a, grad_b);
  });
  return {grad_a, grad_b};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CUDA, m) {
  m.impl("correlation", MSR_BOX(&msr::correlation_cuda));
  m.impl("correlation_backward", MSR_BOX(&msr::correlation_backward_cuda));
}

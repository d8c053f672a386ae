// flow_warp on CUDA. Neighbouring threads read and write neighbouring elements in either layout:
// NCHW: a thread owns one output pixel and a few channels, neighbours are neighbouring pixels;
// channels_last: a thread owns one channel of one output pixel, neighbours are neighbouring channels.
#include "flow_warp.h"

namespace msr::flow_warp {
namespace {

constexpr int kChannelsPerThread = 8;  // NCHW: the taps are worked out once for so many channels
constexpr int kLanes = 32;             // channels_last: threads that add up the flow's gradient of one pixel

struct Pixel {
  int64_t b, i, j;
};

MSR_HOST_DEVICE Pixel pixel_at(int64_t n, const Sizes& s) {
  const int64_t in_image = n % s.pixels();
  return {n / s.pixels(), in_image / s.out_width, in_image % s.out_width};
}

// Calls body(pixel, first channel, last channel) for what this thread owns.
template <bool ChannelsLast, typename Body>
__device__ __forceinline__ void each_owned(const Sizes& s, const Body& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if constexpr (ChannelsLast) {
    const int64_t count = s.batch * s.pixels() * s.channels;
    for (int64_t n = start; n < count; n += step)
      body(pixel_at(n / s.channels, s), n % s.channels, n % s.channels + 1);
  } else {
    const int64_t groups = (s.channels + kChannelsPerThread - 1) / kChannelsPerThread;
    const int64_t count = s.batch * groups * s.pixels();
    for (int64_t n = start; n < count; n += step) {
      const int64_t in_image = n % s.pixels(), group = n / s.pixels() % groups;
      const int64_t first = group * kChannelsPerThread;
      const int64_t last = first + kChannelsPerThread < s.channels ? first + kChannelsPerThread : s.channels;
      body(Pixel{n / (s.pixels() * groups), in_image / s.out_width, in_image % s.out_width}, first, last);
    }
  }
}

template <int K, bool ChannelsLast, typename T>
__global__ void flow_warp_kernel(const T* x, Strides xs, Flow<compute_t<T>> flow, T* out, Strides os, Sizes s) {
  using C = compute_t<T>;
  each_owned<ChannelsLast>(s, [&](const Pixel& p, int64_t first, int64_t last) {
    const auto across = taps<K>(flow.x(p.b, p.i, p.j), s.width, s.border);
    const auto down = taps<K>(flow.y(p.b, p.i, p.j), s.height, s.border);
    for (int64_t c = first; c < last; ++c) {
      const T* plane = x + p.b * xs.b + c * xs.c;
      C sum = C(0);
      for (int row = 0; row < K; ++row) {
        for (int column = 0; column < K; ++column) {
          if (down.inside[row] && across.inside[column])
            sum += down.weight[row] * across.weight[column] *
                   static_cast<C>(plane[down.index[row] * xs.h + across.index[column] * xs.w]);
        }
      }
      out[p.b * os.b + c * os.c + p.i * os.h + p.j * os.w] = static_cast<T>(sum);
    }
  });
}

// Scatters into grad_x, which is of the compute type and zero before.
template <int K, bool ChannelsLast, typename T>
__global__ void flow_warp_backward_x_kernel(const T* grad, Strides gs, Flow<compute_t<T>> flow, compute_t<T>* grad_x,
                                            Strides xs, Sizes s) {
  using C = compute_t<T>;
  each_owned<ChannelsLast>(s, [&](const Pixel& p, int64_t first, int64_t last) {
    const auto across = taps<K>(flow.x(p.b, p.i, p.j), s.width, s.border);
    const auto down = taps<K>(flow.y(p.b, p.i, p.j), s.height, s.border);
    for (int64_t c = first; c < last; ++c) {
      const C value = static_cast<C>(grad[p.b * gs.b + c * gs.c + p.i * gs.h + p.j * gs.w]);
      C* plane = grad_x + p.b * xs.b + c * xs.c;
      for (int row = 0; row < K; ++row) {
        for (int column = 0; column < K; ++column) {
          if (down.inside[row] && across.inside[column])
            atomicAdd(plane + down.index[row] * xs.h + across.index[column] * xs.w,
                      down.weight[row] * across.weight[column] * value);
        }
      }
    }
  });
}

// What the channels first, first + step, .. add to the gradient of the flow at one pixel.
template <int K, typename T>
__device__ __forceinline__ void add_flow_gradient(const T* grad, const Strides& gs, const T* x, const Strides& xs,
                                                  const Flow<compute_t<T>>& flow, const Sizes& s, const Pixel& p,
                                                  int64_t first, int64_t step, compute_t<T>* sums) {
  using C = compute_t<T>;
  const auto across = taps<K>(flow.x(p.b, p.i, p.j), s.width, s.border);
  const auto down = taps<K>(flow.y(p.b, p.i, p.j), s.height, s.border);
  for (int64_t c = first; c < s.channels; c += step) {
    const C outer = static_cast<C>(grad[p.b * gs.b + c * gs.c + p.i * gs.h + p.j * gs.w]);
    const T* plane = x + p.b * xs.b + c * xs.c;
    C along_x = C(0), along_y = C(0);
    for (int row = 0; row < K; ++row) {
      for (int column = 0; column < K; ++column) {
        if (!down.inside[row] || !across.inside[column]) continue;
        const C value = static_cast<C>(plane[down.index[row] * xs.h + across.index[column] * xs.w]);
        along_x += down.weight[row] * across.slope[column] * value;
        along_y += down.slope[row] * across.weight[column] * value;
      }
    }
    sums[0] += outer * along_x;
    sums[1] += outer * along_y;
  }
}

// NCHW: one thread a pixel, all channels.
template <int K, typename T>
__global__ void flow_warp_backward_flow_kernel(const T* grad, Strides gs, const T* x, Strides xs,
                                               Flow<compute_t<T>> flow, compute_t<T>* grad_flow, Sizes s) {
  using C = compute_t<T>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t n = start; n < s.batch * s.pixels(); n += step) {
    const Pixel p = pixel_at(n, s);
    C sums[2] = {C(0), C(0)};
    add_flow_gradient<K>(grad, gs, x, xs, flow, s, p, 0, 1, sums);
    C* to = grad_flow + (p.b * 2 * s.out_height + p.i) * s.out_width + p.j;
    to[0] = sums[0];
    to[s.pixels()] = sums[1];
  }
}

// channels_last: kLanes threads a pixel, each with every kLanes-th channel, then a sum in shared memory.
template <int K, typename T>
__global__ void flow_warp_backward_flow_lanes_kernel(const T* grad, Strides gs, const T* x, Strides xs,
                                                     Flow<compute_t<T>> flow, compute_t<T>* grad_flow, Sizes s) {
  using C = compute_t<T>;
  MSR_SHARED(C, shared, [2][kThreads]);
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  constexpr int kGroups = kThreads / kLanes;
  const int64_t count = s.batch * s.pixels();
  // Every thread of a block takes as many turns, also past the end: the barriers need them all.
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * kGroups; base < count;
       base += static_cast<int64_t>(gridDim.x) * kGroups) {
    const int64_t n = base + group;
    const Pixel p = pixel_at(n < count ? n : count - 1, s);
    C sums[2] = {C(0), C(0)};
    if (n < count) add_flow_gradient<K>(grad, gs, x, xs, flow, s, p, lane, kLanes, sums);
    shared[0][threadIdx.x] = sums[0];
    shared[1][threadIdx.x] = sums[1];
    for (int half = kLanes / 2; half > 0; half /= 2) {
      __syncthreads();
      if (lane < half) {
        shared[0][threadIdx.x] += shared[0][threadIdx.x + half];
        shared[1][threadIdx.x] += shared[1][threadIdx.x + half];
      }
    }
    if (lane == 0 && n < count) {
      C* to = grad_flow + (p.b * 2 * s.out_height + p.i) * s.out_width + p.j;
      to[0] = shared[0][threadIdx.x];
      to[s.pixels()] = shared[1][threadIdx.x];
    }
    __syncthreads();
  }
}

int64_t threads_for(const Sizes& s, bool channels_last) {
  const int64_t each = channels_last ? s.channels : (s.channels + kChannelsPerThread - 1) / kChannelsPerThread;
  return s.batch * s.pixels() * each;
}

}  // namespace
}  // namespace msr::flow_warp

namespace msr {

Tensor flow_warp_cuda(const Tensor& x, const Tensor& input_flow, const std::string& interpolation,
                      const std::string& padding_mode) {
  using namespace flow_warp;
  const Sizes s = sizes(x, input_flow, is_border(padding_mode));
  const bool last = is_channels_last(x);
  Tensor out = empty(x, {s.batch, s.channels, s.out_height, s.out_width}, x.scalar_type(), memory_format(x));
  if (out.numel() == 0) return out;
  if (x.numel() == 0) return torch::stable::zero_(out);
  const Tensor flow = to_type(input_flow, compute_type(x.scalar_type()));
  const dim3 blocks = blocks_for(threads_for(s, last));
  dispatch_floating(x.scalar_type(), "flow_warp", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = static_cast<const T*>(x.data_ptr());
    T* to = static_cast<T*>(out.data_ptr());
    const auto f = flow_of<compute_t<T>>(flow);
    with_taps(taps_of(interpolation), [&](auto k) {
      constexpr int K = decltype(k)::value;
      const auto kernel = last ? flow_warp_kernel<K, true, T> : flow_warp_kernel<K, false, T>;
      launch(kernel, blocks, dim3(kThreads), 0, x, from, strides(x), f, to, strides(out), s);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> flow_warp_backward_cuda(const Tensor& input_grad, const Tensor& x, const Tensor& input_flow,
                                                   const std::string& interpolation, const std::string& padding_mode,
                                                   bool needs_x, bool needs_flow) {
  using namespace flow_warp;
  const Sizes s = sizes(x, input_flow, is_border(padding_mode));
  check_grad(input_grad, x, s);
  const bool last = is_channels_last(x);
  const ScalarType type = x.scalar_type(), compute = compute_type(type);
  Tensor grad_x = needs_x ? empty(x, {s.batch, s.channels, s.height, s.width}, compute, memory_format(x))
                          : empty(x, {0}, compute);
  Tensor grad_flow = needs_flow ? empty(x, {s.batch, 2, s.out_height, s.out_width}, compute) : empty(x, {0}, compute);
  if (needs_x) torch::stable::zero_(grad_x);
  const bool nothing = x.numel() == 0 || input_flow.numel() == 0;
  if (needs_flow && nothing) torch::stable::zero_(grad_flow);
  if (!nothing) {
    const Tensor flow = to_type(input_flow, compute);
    const Tensor grad = to_type(input_grad, type);
    dispatch_floating(type, "flow_warp", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using C = compute_t<T>;
      const T* g = static_cast<const T*>(grad.data_ptr());
      const T* from = static_cast<const T*>(x.data_ptr());
      const auto f = flow_of<C>(flow);
      with_taps(taps_of(interpolation), [&](auto k) {
        constexpr int K = decltype(k)::value;
        if (needs_x) {
          const auto kernel = last ? flow_warp_backward_x_kernel<K, true, T> : flow_warp_backward_x_kernel<K, false, T>;
          launch(kernel, blocks_for(threads_for(s, last)), dim3(kThreads), 0, x, g, strides(grad), f,
                 static_cast<C*>(grad_x.data_ptr()), strides(grad_x), s);
        }
        if (needs_flow) {
          const auto kernel =
              last ? flow_warp_backward_flow_lanes_kernel<K, T> : flow_warp_backward_flow_kernel<K, T>;
          launch(kernel, blocks_for(s.batch * s.pixels() * (last ? kLanes : 1)), dim3(kThreads), 0, x, g, strides(grad),
                 from, strides(x), f, static_cast<C*>(grad_flow.data_ptr()), s);
        }
      });
    });
  }
  return {to_type(grad_x, type), to_type(grad_flow, input_flow.scalar_type())};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CUDA, m) {
  m.impl("flow_warp", MSR_BOX(&msr::flow_warp_cuda));
  m.impl("flow_warp_backward", MSR_BOX(&msr::flow_warp_backward_cuda));
}

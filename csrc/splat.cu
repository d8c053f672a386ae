// splat on CUDA. Pixels are scattered by atomic additions into sums of the compute type, divided and rounded in a pass of
// their own. Where a deterministic result is asked for, the sums are whole numbers of 64 bits in units that no sum can
// overflow: such additions give the same in any order. The gradients gather, and need no atomics.
#include "splat_sums.h"

namespace msr::splat {
namespace {

constexpr int kChannelsPerThread = 8;  // NCHW: the landing is worked out once for so many channels
constexpr int kLanes = 32;             // channels_last: threads that add up over the channels of one pixel

// Calls body(n) for every n below count that is this thread's.
template <typename Body>
__device__ __forceinline__ void each_number(int64_t count, const Body& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; n < count; n += step) body(n);
}

template <typename C>
__global__ void splat_highest_kernel(Motion<C> motion, Bits<C>* highest, Sizes s) {
  each_number(s.batch * s.pixels(), [&](int64_t n) {
    const int64_t b = n / s.pixels();
    const auto found = motion.corners(b, n % s.pixels(), s);
    const C metric = bounded_metric(motion.metric[n]);
    if (metric != metric) return;
    for (int k = 0; k < 4; ++k)
      if (found.share[k] > C(0)) atomicMax(highest + b * s.pixels() + found.at[k], ordered(metric));
  });
}

// The largest finite magnitude of `count` values; memory order does not matter here.
template <typename T>
__global__ void splat_most_kernel(const T* values, int64_t count, unsigned long long* most) {
  double found = 0;
  each_number(count, [&](int64_t n) {
    const double value = fabs(static_cast<double>(static_cast<compute_t<T>>(values[n])));
    if (value > found && value - value == 0) found = value;
  });
  unsigned long long bits;
  memcpy(&bits, &found, sizeof(bits));  // the bits of numbers that are not negative have their order
  if (found > 0) atomicMax(most, bits);
}

// What the kernels know of every pixel besides its place.
template <typename C>
struct Scene {
  Motion<C> motion;
  const Bits<C>* highest;  // of "soft"
  const double* most;      // of deterministic sums: the largest feature, then the largest metric

  __device__ __forceinline__ C worth(const Sizes& s, int64_t b, int64_t n, int64_t at) const {
    if (!motion.metric) return C(1);
    return strength(s.mode, motion.metric[b * s.pixels() + n],
                    s.mode == Mode::soft ? disordered<C>(highest[b * s.pixels() + at]) : C(0));
  }
  __device__ __forceinline__ double largest_weight(const Sizes& s) const { return s.mode == Mode::linear ? most[1] : 1; }
};

// ---- forward -------------------------------------------------------------------------------------------------------

template <typename Sums, typename C>
__global__ void splat_divisor_kernel(Scene<C> scene, typename Sums::type* divisor, Sizes s) {
  const Sums sums = sums_of<Sums>(scene.most ? scene.largest_weight(s) : 0, s.pixels());
  each_number(s.batch * s.pixels(), [&](int64_t n) {
    const int64_t b = n / s.pixels(), pixel = n % s.pixels();
    const auto found = scene.motion.corners(b, pixel, s);
    for (int k = 0; k < 4; ++k)
      if (found.inside[k])
        sums.add(divisor + b * s.pixels() + found.at[k], found.share[k] * scene.worth(s, b, pixel, found.at[k]));
  });
}

// Calls body(image, pixel, first channel, last channel) for what this thread owns: one channel of a pixel (channels_last) or
// a few of them (NCHW), such that neighbouring threads own what is neighbouring in memory.
template <bool ChannelsLast, typename Body>
__device__ __forceinline__ void each_owned(const Sizes& s, const Body& body) {
  constexpr int64_t kOwned = ChannelsLast ? 1 : kChannelsPerThread;
  const int64_t groups = (s.channels + kOwned - 1) / kOwned;
  each_number(s.batch * groups * s.pixels(), [&](int64_t n) {
    const int64_t group = ChannelsLast ? n % groups : n / s.pixels() % groups;
    const int64_t pixel = ChannelsLast ? n / groups % s.pixels() : n % s.pixels();
    const int64_t last = (group + 1) * kOwned;
    body(n / (groups * s.pixels()), pixel, group * kOwned, last < s.channels ? last : s.channels);
  });
}

// Strides of a pixel's row and column are told apart only here: x may be a window into something larger.
MSR_HOST_DEVICE int64_t offset(const Strides& stride, const Sizes& s, int64_t b, int64_t pixel) {
  return b * stride.b + pixel / s.width * stride.h + pixel % s.width * stride.w;
}

template <typename Sums, bool ChannelsLast, typename T>
__global__ void splat_kernel(const T* x, Strides xs, Scene<compute_t<T>> scene, typename Sums::type* total, Strides ts,
                             Sizes s) {
  using C = compute_t<T>;
  const Sums sums = sums_of<Sums>(scene.most ? scene.most[0] * scene.largest_weight(s) : 0, s.pixels());
  each_owned<ChannelsLast>(s, [&](int64_t b, int64_t pixel, int64_t first, int64_t last) {
    const auto found = scene.motion.corners(b, pixel, s);
    C weight[4];
    for (int k = 0; k < 4; ++k) weight[k] = found.inside[k] ? found.share[k] * scene.worth(s, b, pixel, found.at[k]) : C(0);
    const T* from = x + offset(xs, s, b, pixel);
    for (int64_t c = first; c < last; ++c) {
      const C value = static_cast<C>(from[c * xs.c]);
      for (int k = 0; k < 4; ++k)
        if (found.inside[k]) sums.add(total + offset(ts, s, b, found.at[k]) + c * ts.c, weight[k] * value);
    }
  });
}

// Divides the sums and rounds them into the result. What nothing lands on is 0.
template <typename Sums, bool ChannelsLast, typename T>
__global__ void splat_finish_kernel(const typename Sums::type* total, const typename Sums::type* divisor,
                                    Scene<compute_t<T>> scene, T* out, Strides os, Sizes s) {
  using C = compute_t<T>;
  const double weight = scene.most ? scene.largest_weight(s) : 0;
  const Sums of_divisor = sums_of<Sums>(weight, s.pixels());
  const Sums of_total = sums_of<Sums>(scene.most ? scene.most[0] * weight : 0, s.pixels());
  each_owned<ChannelsLast>(s, [&](int64_t b, int64_t pixel, int64_t first, int64_t last) {
    const C by = divisor ? of_divisor.value(divisor[b * s.pixels() + pixel]) : C(1);
    const int64_t place = offset(os, s, b, pixel);
    for (int64_t c = first; c < last; ++c) {
      const C value = of_total.value(total[place + c * os.c]);
      out[place + c * os.c] = static_cast<T>(by == C(0) ? C(0) : value / by);
    }
  });
}

// ---- backward ------------------------------------------------------------------------------------------------------

// Adds up `sums` over the kLanes threads of a pixel; all of them get the result.
template <int Count, typename C>
__device__ __forceinline__ void add_lanes(C (&sums)[Count]) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    for (int n = 0; n < Count; ++n) sums[n] += __shfl_xor_sync(0xffffffffu, sums[n], distance);
}

// Calls body(image, pixel, first channel, step, whether to write) with Lanes threads for each pixel, each with every
// Lanes-th channel. Every thread takes as many turns, also past the end: the sums over the lanes need them all.
template <int Lanes, typename Body>
__device__ __forceinline__ void each_pixel(const Sizes& s, const Body& body) {
  const int64_t count = s.batch * s.pixels(), step = static_cast<int64_t>(gridDim.x) * blockDim.x / Lanes;
  const int64_t own = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / Lanes;
  const int lane = threadIdx.x % Lanes;
  for (int64_t base = 0; base < count; base += step) {
    const int64_t n = base + own < count ? base + own : count - 1;
    body(n / s.pixels(), n % s.pixels(), lane, base + own < count && lane == 0);
  }
}

// For each place what a weight takes from all that lands there: the gradient of the sums times the result.
template <int Lanes, typename Sums, typename T>
__global__ void splat_taken_kernel(const T* grad, Strides gs, const compute_t<T>* out, Strides os,
                                   Scene<compute_t<T>> scene, const typename Sums::type* sums, compute_t<T>* divisor,
                                   compute_t<T>* taken, Sizes s) {
  using C = compute_t<T>;
  const Sums of_divisor = sums_of<Sums>(scene.most ? scene.largest_weight(s) : 0, s.pixels());
  each_pixel<Lanes>(s, [&](int64_t b, int64_t pixel, int64_t first, bool writes) {
    const C by = of_divisor.value(sums[b * s.pixels() + pixel]);
    const T* from = grad + offset(gs, s, b, pixel);
    const C* result = out + offset(os, s, b, pixel);
    C sum[1] = {C(0)};
    for (int64_t c = first; c < s.channels; c += Lanes)
      sum[0] += static_cast<C>(from[c * gs.c]) * result[c * os.c];
    if constexpr (Lanes > 1) add_lanes(sum);
    if (!writes) return;
    divisor[b * s.pixels() + pixel] = by;
    taken[b * s.pixels() + pixel] = by == C(0) ? C(0) : sum[0] / by;
  });
}

template <typename C>
__device__ __forceinline__ C over(const C* divisor, int64_t at) {
  return !divisor ? C(1) : divisor[at] == C(0) ? C(0) : C(1) / divisor[at];
}

template <bool ChannelsLast, typename T>
__global__ void splat_backward_x_kernel(const T* grad, Strides gs, Scene<compute_t<T>> scene, const compute_t<T>* divisor,
                                        T* grad_x, Strides xs, Sizes s) {
  using C = compute_t<T>;
  each_owned<ChannelsLast>(s, [&](int64_t b, int64_t pixel, int64_t first, int64_t last) {
    const auto found = scene.motion.corners(b, pixel, s);
    C weight[4];
    for (int k = 0; k < 4; ++k)
      weight[k] = found.inside[k] ? found.share[k] * scene.worth(s, b, pixel, found.at[k]) *
                                        over(divisor, b * s.pixels() + found.at[k])
                                  : C(0);
    for (int64_t c = first; c < last; ++c) {
      C sum = C(0);
      for (int k = 0; k < 4; ++k)
        if (found.inside[k]) sum += weight[k] * static_cast<C>(grad[offset(gs, s, b, found.at[k]) + c * gs.c]);
      grad_x[offset(xs, s, b, pixel) + c * xs.c] = static_cast<T>(sum);
    }
  });
}

template <int Lanes, typename T>
__global__ void splat_backward_flow_kernel(const T* grad, Strides gs, const T* x, Strides xs, Scene<compute_t<T>> scene,
                                           const compute_t<T>* divisor, const compute_t<T>* taken,
                                           compute_t<T>* grad_flow, compute_t<T>* grad_metric, Sizes s) {
  using C = compute_t<T>;
  each_pixel<Lanes>(s, [&](int64_t b, int64_t pixel, int64_t first, bool writes) {
    const auto found = scene.motion.corners(b, pixel, s);
    const T* from = x + offset(xs, s, b, pixel);
    C sums[4] = {C(0), C(0), C(0), C(0)};
    for (int64_t c = first; c < s.channels; c += Lanes) {
      const C value = static_cast<C>(from[c * xs.c]);
      for (int k = 0; k < 4; ++k)
        if (found.inside[k]) sums[k] += value * static_cast<C>(grad[offset(gs, s, b, found.at[k]) + c * gs.c]);
    }
    if constexpr (Lanes > 1) add_lanes(sums);
    if (!writes) return;
    C to_x = C(0), to_y = C(0), to_metric = C(0);
    for (int k = 0; k < 4; ++k) {
      if (!found.inside[k]) continue;
      const int64_t at = b * s.pixels() + found.at[k];
      const C of_weight = sums[k] * over(divisor, at) - (taken ? taken[at] : C(0));
      const C worth = scene.worth(s, b, pixel, found.at[k]);
      to_x += found.slope_x[k] * worth * of_weight;
      to_y += found.slope_y[k] * worth * of_weight;
      if (grad_metric)
        to_metric += found.share[k] * strength_slope(s.mode, scene.motion.metric[b * s.pixels() + pixel], worth) * of_weight;
    }
    grad_flow[b * 2 * s.pixels() + pixel] = to_x;
    grad_flow[(b * 2 + 1) * s.pixels() + pixel] = to_y;
    if (grad_metric) grad_metric[b * s.pixels() + pixel] = to_metric;
  });
}

// ---- the passes ----------------------------------------------------------------------------------------------------

template <typename C>
constexpr ScalarType kComputeType = std::is_same_v<C, double> ? ScalarType::Double : ScalarType::Float;

// What the passes share: inputs in the compute type, and what is worked out once for all channels.
template <typename C>
struct Prepared {
  Tensor flow, metric, highest, most, divisor;
  Scene<C> scene;
};

inline void find_most(const Tensor& where, const Tensor& values, double* most) {
  dispatch_floating(values.scalar_type(), "splat", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t blocks = (values.numel() + kThreads - 1) / kThreads;
    launch(splat_most_kernel<T>, dim3(static_cast<unsigned>(blocks < 4096 ? blocks : 4096)), dim3(kThreads), 0, where,
           static_cast<const T*>(values.data_ptr()), values.numel(), reinterpret_cast<unsigned long long*>(most));
  });
}

template <typename Sums, typename C>
Tensor new_sums(const Tensor& like, std::vector<int64_t> shape, MemoryFormat format) {
  Tensor sums = empty(like, shape, Sums::kDeterministic ? ScalarType::Long : kComputeType<C>, format);
  return Sums::kDeterministic ? torch::stable::fill_(sums, static_cast<double>(kZero)) : torch::stable::zero_(sums);
}

template <typename Sums, typename C>
Prepared<C> prepare(const Tensor& x, const Tensor& flow, const std::optional<Tensor>& metric, const Sizes& s) {
  const ScalarType compute = kComputeType<C>;
  Prepared<C> p{motion_tensor(flow, compute), metric ? motion_tensor(*metric, compute) : flow, flow, flow, flow, {}};
  p.scene.motion = {static_cast<const C*>(p.flow.data_ptr()), metric ? static_cast<const C*>(p.metric.data_ptr()) : nullptr};
  const dim3 blocks = blocks_for(s.batch * s.pixels()), threads(kThreads);
  if (s.mode == Mode::soft) {
    p.highest = empty(x, {s.batch, s.pixels()}, compute);
    torch::stable::zero_(p.highest);  // as bits: below any number
    launch(splat_highest_kernel<C>, blocks, threads, 0, x, p.scene.motion, static_cast<Bits<C>*>(p.highest.data_ptr()), s);
    p.scene.highest = static_cast<const Bits<C>*>(p.highest.data_ptr());
  }
  if (Sums::kDeterministic) {
    p.most = empty(x, {2}, ScalarType::Double);
    torch::stable::zero_(p.most);
    double* most = static_cast<double*>(p.most.data_ptr());
    find_most(x, as_contiguous(x, memory_format(x)), most);
    if (s.mode == Mode::linear) find_most(x, p.metric, most + 1);
    p.scene.most = most;
  }
  if (s.divides()) {
    p.divisor = new_sums<Sums, C>(x, {s.batch, s.pixels()}, MemoryFormat::Contiguous);
    launch(splat_divisor_kernel<Sums, C>, blocks, threads, 0, x, p.scene,
           static_cast<typename Sums::type*>(p.divisor.data_ptr()), s);
  }
  return p;
}

dim3 blocks_of(const Sizes& s, bool last) {
  const int64_t owned = last ? 1 : kChannelsPerThread;
  return blocks_for(s.batch * s.pixels() * ((s.channels + owned - 1) / owned));
}

template <typename Sums, bool Last, typename T>
void forward(const Tensor& x, const Tensor& flow, const std::optional<Tensor>& metric, const Tensor& out, const Sizes& s) {
  using C = compute_t<T>;
  using S = typename Sums::type;
  const Prepared<C> p = prepare<Sums, C>(x, flow, metric, s);
  const Tensor total = new_sums<Sums, C>(x, {s.batch, s.channels, s.height, s.width}, memory_format(x));
  launch(splat_kernel<Sums, Last, T>, blocks_of(s, Last), dim3(kThreads), 0, x, static_cast<const T*>(x.data_ptr()),
         strides(x), p.scene, static_cast<S*>(total.data_ptr()), strides(total), s);
  launch(splat_finish_kernel<Sums, Last, T>, blocks_of(s, Last), dim3(kThreads), 0, x,
         static_cast<const S*>(total.data_ptr()), s.divides() ? static_cast<const S*>(p.divisor.data_ptr()) : nullptr,
         p.scene, static_cast<T*>(out.data_ptr()), strides(out), s);
}

template <typename Sums, bool Last, typename T>
void backward(const Tensor& grad, const Tensor& x, const Tensor& flow, const std::optional<Tensor>& metric,
              const Tensor& out, const Tensor& grad_x, const Tensor& grad_flow, const Tensor& grad_metric, const Sizes& s) {
  using C = compute_t<T>;
  constexpr int Lanes = Last ? kLanes : 1;
  const Prepared<C> p = prepare<Sums, C>(x, flow, metric, s);
  const T* g = static_cast<const T*>(grad.data_ptr());
  const Tensor per_place = empty(x, {2, s.batch, s.pixels()}, kComputeType<C>);
  C* const divisor = s.divides() ? static_cast<C*>(per_place.data_ptr()) : nullptr;
  C* const taken = s.divides() ? divisor + s.batch * s.pixels() : nullptr;
  const dim3 blocks = blocks_for(s.batch * s.pixels() * Lanes), threads(kThreads);
  if (s.divides())
    launch(splat_taken_kernel<Lanes, Sums, T>, blocks, threads, 0, x, g, strides(grad),
           static_cast<const C*>(out.data_ptr()), strides(out), p.scene,
           static_cast<const typename Sums::type*>(p.divisor.data_ptr()), divisor, taken, s);
  launch(splat_backward_x_kernel<Last, T>, blocks_of(s, Last), threads, 0, x, g, strides(grad), p.scene, divisor,
         static_cast<T*>(grad_x.data_ptr()), strides(grad_x), s);
  launch(splat_backward_flow_kernel<Lanes, T>, blocks, threads, 0, x, g, strides(grad),
         static_cast<const T*>(x.data_ptr()), strides(x), p.scene, divisor, taken, static_cast<C*>(grad_flow.data_ptr()),
         metric ? static_cast<C*>(grad_metric.data_ptr()) : nullptr, s);
}

// Calls body(Tag<T>, Tag<how sums are made>, whether channels lie next to each other).
template <typename Body>
void with_kinds(const Tensor& x, bool deterministic, const Body& body) {
  dispatch_floating(x.scalar_type(), "splat", [&](auto tag) {
    using C = compute_t<typename decltype(tag)::type>;
    const auto with_sums = [&](auto sums) {
      if (is_channels_last(x))
        body(tag, sums, std::true_type{});
      else
        body(tag, sums, std::false_type{});
    };
    if (deterministic)
      with_sums(Tag<Fixed<C>>{});
    else
      with_sums(Tag<Floats<C>>{});
  });
}

}  // namespace
}  // namespace msr::splat

namespace msr {

Tensor splat_cuda(const Tensor& x, const Tensor& flow, const std::optional<Tensor>& metric, const std::string& mode,
                  bool deterministic) {
  using namespace splat;
  const Sizes s = sizes(x, flow, metric, mode);
  Tensor out = empty(x, {s.batch, s.channels, s.height, s.width}, x.scalar_type(), memory_format(x));
  if (out.numel() == 0) return out;
  with_kinds(x, deterministic, [&](auto tag, auto sums, auto last) {
    forward<typename decltype(sums)::type, decltype(last)::value, typename decltype(tag)::type>(x, flow, metric, out, s);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> splat_backward_cuda(const Tensor& input_grad, const Tensor& x, const Tensor& flow,
                                                       const std::optional<Tensor>& metric,
                                                       const Tensor& input_out, const std::string& mode,
                                                       bool deterministic) {
  using namespace splat;
  const Sizes s = sizes(x, flow, metric, mode);
  check_like(input_grad, "grad", s);
  check_like(input_out, "out", s);
  const ScalarType type = x.scalar_type(), compute = compute_type(type);
  Tensor grad_x = empty(x, {s.batch, s.channels, s.height, s.width}, type, memory_format(x));
  Tensor grad_flow = empty(x, {s.batch, 2, s.height, s.width}, compute);
  Tensor grad_metric = metric ? empty(x, {s.batch, 1, s.height, s.width}, compute) : empty(x, {0}, compute);
  if (x.numel() == 0) {
    torch::stable::zero_(grad_flow);
    torch::stable::zero_(grad_metric);
  } else {
    const Tensor grad = to_type(input_grad, type), out = to_type(input_out, compute);
    with_kinds(x, deterministic, [&](auto tag, auto sums, auto last) {
      backward<typename decltype(sums)::type, decltype(last)::value, typename decltype(tag)::type>(
          grad, x, flow, metric, out, grad_x, grad_flow, grad_metric, s);
    });
  }
  const ScalarType metric_type = metric ? metric->scalar_type() : flow.scalar_type();
  return {grad_x, to_type(grad_flow, flow.scalar_type()), to_type(grad_metric, metric_type)};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CUDA, m) {
  m.impl("splat", MSR_BOX(&msr::splat_cuda));
  m.impl("splat_backward", MSR_BOX(&msr::splat_backward_cuda));
}

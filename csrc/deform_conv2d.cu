// deform_conv2d on CUDA: its offsets and masks, which lie in memory, and the backward pass.
#include "deform_conv2d_kernel.h"

namespace msr::deform {
namespace {

// Offsets and masks are contiguous and of the compute type; no mask is nullptr.
template <typename C>
struct Tabled {
  const C *offset, *mask;

  __device__ __forceinline__ Move<C> at(const Geometry& g, int64_t b, int64_t offset_group, int64_t tap,
                                        int64_t pixel) const {
    const int64_t number = (b * g.offset_groups + offset_group) * g.taps + tap;
    return {offset[2 * number * g.pixels() + pixel], offset[(2 * number + 1) * g.pixels() + pixel],
            mask ? mask[number * g.pixels() + pixel] : C(1)};
  }
};

// One thread for each image, offset group, tap and output pixel: the gradients of its offset and mask, and what the
// sample's channels scatter into the gradient of the input (zero before).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    deform_conv2d_backward_samples_kernel(Geometry g, Source<T, Tabled<compute_t<T>>> source, const T* weight, const T* grad, Strides gs,
                                          compute_t<T>* grad_input, Strides is, compute_t<T>* grad_offset,
                                          compute_t<T>* grad_mask) {
  using C = compute_t<T>;
  const int64_t count = g.batch * g.offset_groups * g.taps * g.pixels(), size = g.out_channels / g.groups;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; n < count; n += step) {
    const int64_t pixel = n % g.pixels(), number = n / g.pixels(), tap = number % g.taps;
    const int64_t offset_group = number / g.taps % g.offset_groups, b = number / g.taps / g.offset_groups;
    const Position<C> at = position_at(g, source, b, offset_group, tap, pixel);
    const T* out = grad + b * gs.b + pixel / g.out_width * gs.h + pixel % g.out_width * gs.w;
    C upper_dot = C(0), lower_dot = C(0), slope_dot = C(0);
    const int64_t first = offset_group * g.offset_group_channels();
    for (int64_t channel = first; channel < first + g.offset_group_channels(); ++channel) {
      const int64_t group = channel / g.group_channels();
      C wanted = C(0);
      for (int64_t o = group * size; o < (group + 1) * size; ++o)
        wanted += static_cast<C>(weight[(o * g.group_channels() + channel % g.group_channels()) * g.taps + tap]) *
                  static_cast<C>(out[o * gs.c]);
      const T* plane = source.input + b * source.strides.b + channel * source.strides.c;
      C* scatter = grad_input + b * is.b + channel * is.c;
      C corners[2][2];
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) {
          const int row = at.top + i, column = at.left + j;
          corners[i][j] = pixel_at(g, source, plane, row, column);
          if (row >= 0 && row < g.height && column >= 0 && column < g.width)
            atomicAdd(scatter + row * is.h + column * is.w,
                      wanted * at.strength * (i ? at.fy : C(1) - at.fy) * (j ? at.fx : C(1) - at.fx));
        }
      const C top_slope = corners[0][1] - corners[0][0], bottom_slope = corners[1][1] - corners[1][0];
      upper_dot += wanted * (corners[0][0] + top_slope * at.fx);
      lower_dot += wanted * (corners[1][0] + bottom_slope * at.fx);
      slope_dot += wanted * (top_slope * (C(1) - at.fy) + bottom_slope * at.fy);
    }
    grad_offset[2 * number * g.pixels() + pixel] = at.strength * (lower_dot - upper_dot);
    grad_offset[(2 * number + 1) * g.pixels() + pixel] = at.strength * slope_dot;
    if (grad_mask) grad_mask[n] = (C(1) - at.fy) * upper_dot + at.fy * lower_dot;
  }
}

// A block sums the weight gradients of one chunk and kChannels output channels over some of the pixels.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    deform_conv2d_backward_weight_kernel(Geometry g, Source<T, Tabled<compute_t<T>>> source, const T* grad, Strides gs,
                                         compute_t<T>* grad_weight) {
  using C = compute_t<T>;
  constexpr int pixels = kPixels<C>, own = kDepth * kChannels / kThreads;
  MSR_SHARED(Position<C>, positions, [kDepth][pixels]);
  MSR_SHARED(C, columns, [kDepth][pixels]);
  MSR_SHARED(C, outer, [kChannels][pixels + 1]);
  const int64_t tiles = (g.pixels() + pixels - 1) / pixels, size = g.out_channels / g.groups;
  const int64_t parts = (size + kChannels - 1) / kChannels;
  const int64_t group = blockIdx.z / parts, channel = blockIdx.z % parts * kChannels;
  Chunk chunk;
  bool there = first_chunk(g, group, 0, chunk);
  for (int64_t skip = blockIdx.y; there && skip > 0; --skip) there = next_chunk(g, group, chunk);
  if (!there) return;  // the same for the whole block
  C sums[own] = {};
  for (int64_t tile = blockIdx.x; tile < g.batch * tiles; tile += gridDim.x) {
    const int64_t b = tile / tiles, first = tile % tiles * pixels;
    for (int i = threadIdx.x; i < kChannels * pixels; i += kThreads) {
      const int64_t o = channel + i / pixels, pixel = first + i % pixels;
      const int64_t at = b * gs.b + (group * size + o) * gs.c + pixel / g.out_width * gs.h + pixel % g.out_width * gs.w;
      outer[i / pixels][i % pixels] = o < size && pixel < g.pixels() ? static_cast<C>(grad[at]) : C(0);
    }
    sample_chunk(g, source, b, chunk, first, positions, columns);
    __syncthreads();
    for (int n = 0; n < own; ++n) {
      const int i = threadIdx.x + n * kThreads;
      for (int p = 0; p < pixels; ++p) sums[n] += outer[i % kChannels][p] * columns[i / kChannels][p];
    }
    __syncthreads();
  }
  for (int n = 0; n < own; ++n) {
    const int i = threadIdx.x + n * kThreads;
    const int64_t element = i / kChannels, o = channel + i % kChannels;
    if (element >= chunk.count() || o >= size) continue;
    const int64_t within = chunk.channel(element) - group * g.group_channels();
    atomicAdd(grad_weight + ((group * size + o) * g.group_channels() + within) * g.taps + chunk.tap(element), sums[n]);
  }
}

// One block for each output channel.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    deform_conv2d_backward_bias_kernel(Geometry g, const T* grad, Strides gs, compute_t<T>* grad_bias) {
  using C = compute_t<T>;
  MSR_SHARED(C, sums, [kThreads]);
  C sum = C(0);
  for (int64_t n = threadIdx.x; n < g.batch * g.pixels(); n += kThreads) {
    const int64_t b = n / g.pixels(), pixel = n % g.pixels();
    sum += static_cast<C>(
        grad[b * gs.b + blockIdx.x * gs.c + pixel / g.out_width * gs.h + pixel % g.out_width * gs.w]);
  }
  sums[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) grad_bias[blockIdx.x] = sums[0];
}

template <typename C>
Tabled<C> moves_of(const Tensor& offset, const std::optional<Tensor>& mask) {
  return {static_cast<const C*>(offset.data_ptr()), mask ? static_cast<const C*>(mask->data_ptr()) : nullptr};
}

std::vector<int64_t> sizes(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

}  // namespace
}  // namespace msr::deform

namespace msr {

Tensor deform_conv2d_cuda(const Tensor& input, const Tensor& given_offset, const Tensor& given_weight,
                          const std::optional<Tensor>& given_bias, const std::optional<Tensor>& given_mask,
                          const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                          const std::vector<int64_t>& dilation) {
  using namespace deform;
  const Geometry g = geometry_of(input, given_offset, given_weight, given_bias, given_mask, stride, padding, dilation);
  const ScalarType type = compute_type(input.scalar_type());
  const Tensor offset = prepared(given_offset, type);
  std::optional<Tensor> mask;
  if (given_mask) mask = prepared(*given_mask, type);
  return forward("deform_conv2d", g, input, given_weight, given_bias, [&](auto tag) {
    return moves_of<compute_t<typename decltype(tag)::type>>(offset, mask);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward_cuda(
    const Tensor& grad, const Tensor& input, const Tensor& given_offset, const Tensor& given_weight,
    const std::optional<Tensor>& given_mask, const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
    const std::vector<int64_t>& dilation) {
  using namespace deform;
  const Geometry g = geometry_of(input, given_offset, given_weight, std::nullopt, given_mask, stride, padding, dilation);
  const ScalarType type = compute_type(input.scalar_type());
  const Tensor offset = prepared(given_offset, type), weight = as_contiguous(given_weight);
  std::optional<Tensor> mask;
  if (given_mask) mask = prepared(*given_mask, type);
  // Sums are made in the compute type and rounded once at the end.
  Tensor grad_input = empty(input, sizes(input), type, memory_format(input));
  Tensor grad_offset = empty(input, sizes(offset), type), grad_weight = empty(input, sizes(weight), type);
  Tensor grad_bias = empty(input, {g.out_channels}, type);
  Tensor grad_mask = mask ? empty(input, sizes(*mask), type) : empty(input, {0}, type);
  for (Tensor* each : {&grad_input, &grad_offset, &grad_weight, &grad_bias, &grad_mask}) torch::stable::zero_(*each);
  if (grad.numel() > 0) {
    int64_t chunks = 0;
    for (int64_t group = 0; group < g.groups; ++group) {
      Chunk chunk;
      int64_t count = 0;
      for (bool more = first_chunk(g, group, 0, chunk); more; more = next_chunk(g, group, chunk)) ++count;
      chunks = count > chunks ? count : chunks;
    }
    const int64_t parts = (g.out_channels / g.groups + kChannels - 1) / kChannels;
    MSR_CHECK(g.groups * parts <= 65535 && chunks <= 65535, "deform_conv2d: too many channels: input ", describe(input),
              ", weight ", describe(weight));
    dispatch_floating(input.scalar_type(), "deform_conv2d", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using C = compute_t<T>;
      const Source<T, Tabled<C>> source{static_cast<const T*>(input.data_ptr()), strides(input),
                                        moves_of<C>(offset, mask)};
      const T *out = static_cast<const T*>(grad.data_ptr()), *kernel = static_cast<const T*>(weight.data_ptr());
      const int64_t samples = g.batch * g.offset_groups * g.taps * g.pixels();
      launch(deform_conv2d_backward_samples_kernel<T>, blocks_for(samples), dim3(kThreads), 0, input, g, source, kernel,
             out, strides(grad), static_cast<C*>(grad_input.data_ptr()), strides(grad_input),
             static_cast<C*>(grad_offset.data_ptr()), mask ? static_cast<C*>(grad_mask.data_ptr()) : nullptr);
      const int64_t tiles = g.batch * ((g.pixels() + kPixels<C> - 1) / kPixels<C>);
      launch(deform_conv2d_backward_weight_kernel<T>,
             dim3(at_most(tiles, 64), static_cast<unsigned>(chunks), static_cast<unsigned>(g.groups * parts)),
             dim3(kThreads), 0, input, g, source, out, strides(grad), static_cast<C*>(grad_weight.data_ptr()));
      launch(deform_conv2d_backward_bias_kernel<T>, dim3(static_cast<unsigned>(g.out_channels)), dim3(kThreads), 0,
             input, g, out, strides(grad), static_cast<C*>(grad_bias.data_ptr()));
    });
  }
  return {to_type(grad_input, input.scalar_type()), to_type(grad_offset, given_offset.scalar_type()),
          to_type(grad_weight, weight.scalar_type()), to_type(grad_bias, weight.scalar_type()),
          to_type(grad_mask, given_mask ? given_mask->scalar_type() : given_offset.scalar_type())};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CUDA, m) {
  m.impl("deform_conv2d", MSR_BOX(&msr::deform_conv2d_cuda));
  m.impl("deform_conv2d_backward", MSR_BOX(&msr::deform_conv2d_backward_cuda));
}

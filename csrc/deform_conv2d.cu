// deform_conv2d on CUDA. Samples go through shared memory in chunks of a few elements (channel and tap) by some dozen
// pixels and are multiplied there; no buffer of all columns exists. Sums are float32, float64 for float64.
#include "deform_conv2d.h"

namespace msr::deform {
namespace {

constexpr int kDepth = 16;     // elements of a chunk
constexpr int kChannels = 64;  // output channels of a block
constexpr int kSide = 16;      // a block is kSide x kSide threads, each with some pixels and kChannels / kSide channels

template <typename C>
constexpr int kPixels = sizeof(C) == 8 ? 32 : 64;  // pixels of a block, as shared memory allows

// Offsets and masks are contiguous and of the compute type; no mask is nullptr.
template <typename T>
struct Source {
  const T* input;
  Strides strides;
  const compute_t<T>*offset, *mask;
};

// Elements of one convolution group that belong to one offset group: element e is channel first + e % channels and tap
// e / channels. A chunk are the elements begin .. begin + kDepth of these.
struct Chunk {
  int64_t offset_group, first, channels, begin, elements;

  MSR_HOST_DEVICE int64_t channel(int64_t i) const { return first + (begin + i) % channels; }
  MSR_HOST_DEVICE int64_t tap(int64_t i) const { return (begin + i) / channels; }
  MSR_HOST_DEVICE int64_t count() const { return elements - begin < kDepth ? elements - begin : kDepth; }
};

// The first chunk of a group that lies in the given offset group or a later one; false where there is none.
MSR_HOST_DEVICE bool first_chunk(const Geometry& g, int64_t group, int64_t offset_group, Chunk& chunk) {
  const int64_t begin = group * g.group_channels(), end = begin + g.group_channels();
  const int64_t size = g.offset_group_channels();
  if (offset_group < begin / size) offset_group = begin / size;
  const int64_t first = offset_group * size > begin ? offset_group * size : begin;
  const int64_t last = (offset_group + 1) * size < end ? (offset_group + 1) * size : end;
  if (first >= last) return false;
  chunk = {offset_group, first, last - first, 0, (last - first) * g.taps};
  return true;
}

MSR_HOST_DEVICE bool next_chunk(const Geometry& g, int64_t group, Chunk& chunk) {
  chunk.begin += kDepth;
  return chunk.begin < chunk.elements || first_chunk(g, group, chunk.offset_group + 1, chunk);
}

template <typename C>
struct Position {
  int top, left;
  C fy, fx, strength;
};

template <typename T>
__device__ __forceinline__ Position<compute_t<T>> position_at(const Geometry& g, const Source<T>& source, int64_t b,
                                                              int64_t offset_group, int64_t tap, int64_t pixel) {
  using C = compute_t<T>;
  const int64_t number = (b * g.offset_groups + offset_group) * g.taps + tap;
  const int64_t y = pixel / g.out_width * g.stride_h - g.padding_h + tap / g.kernel_w * g.dilation_h;
  const int64_t x = pixel % g.out_width * g.stride_w - g.padding_w + tap % g.kernel_w * g.dilation_w;
  Position<C> at;
  at.top = locate<C>(static_cast<C>(y) + source.offset[2 * number * g.pixels() + pixel], static_cast<C>(g.height), at.fy);
  at.left = locate<C>(static_cast<C>(x) + source.offset[(2 * number + 1) * g.pixels() + pixel], static_cast<C>(g.width),
                      at.fx);
  at.strength = source.mask ? source.mask[number * g.pixels() + pixel] : C(1);
  return at;
}

// A pixel of the input, 0 outside of it.
template <typename T>
__device__ __forceinline__ compute_t<T> pixel_at(const Geometry& g, const Source<T>& source, const T* plane, int row,
                                                 int column) {
  const bool inside = row >= 0 && row < g.height && column >= 0 && column < g.width;
  return inside ? static_cast<compute_t<T>>(plane[row * source.strides.h + column * source.strides.w]) : compute_t<T>(0);
}

template <typename T>
__device__ __forceinline__ compute_t<T> sample(const Geometry& g, const Source<T>& source, int64_t b, int64_t channel,
                                               const Position<compute_t<T>>& at) {
  using C = compute_t<T>;
  const T* plane = source.input + b * source.strides.b + channel * source.strides.c;
  const C top = pixel_at(g, source, plane, at.top, at.left) * (C(1) - at.fx) +
                pixel_at(g, source, plane, at.top, at.left + 1) * at.fx;
  const C bottom = pixel_at(g, source, plane, at.top + 1, at.left) * (C(1) - at.fx) +
                   pixel_at(g, source, plane, at.top + 1, at.left + 1) * at.fx;
  return (top * (C(1) - at.fy) + bottom * at.fy) * at.strength;
}

// Fills columns[element][pixel] for one chunk and the pixels first, first + 1, .. of one image, zeros past the ends.
// All threads of the block take part, also in the barriers.
template <typename T>
__device__ __forceinline__ void sample_chunk(const Geometry& g, const Source<T>& source, int64_t b, const Chunk& chunk,
                                             int64_t first, Position<compute_t<T>> (*positions)[kPixels<compute_t<T>>],
                                             compute_t<T> (*columns)[kPixels<compute_t<T>>]) {
  using C = compute_t<T>;
  constexpr int pixels = kPixels<C>;
  const int64_t first_tap = chunk.tap(0), taps = chunk.tap(chunk.count() - 1) - first_tap + 1;
  for (int64_t i = threadIdx.x; i < taps * pixels; i += kThreads) {
    const int64_t pixel = first + i % pixels;
    if (pixel < g.pixels())
      positions[i / pixels][i % pixels] =
          position_at(g, source, b, chunk.offset_group, first_tap + i / pixels, pixel);
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < kDepth * pixels; i += kThreads) {
    const int64_t element = i / pixels, p = i % pixels;
    const bool there = element < chunk.count() && first + p < g.pixels();
    columns[element][p] =
        there ? sample(g, source, b, chunk.channel(element), positions[chunk.tap(element) - first_tap][p]) : C(0);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    deform_conv2d_kernel(Geometry g, Source<T> source, const T* weight, const T* bias, T* out, Strides os) {
  using C = compute_t<T>;
  constexpr int pixels = kPixels<C>, own_pixels = pixels / kSide, own_channels = kChannels / kSide;
  MSR_SHARED(Position<C>, positions, [kDepth][pixels]);
  MSR_SHARED(C, columns, [kDepth][pixels]);
  MSR_SHARED(C, weights, [kDepth][kChannels + 1]);
  const int64_t tiles = (g.pixels() + pixels - 1) / pixels, size = g.out_channels / g.groups;
  const int64_t parts = (size + kChannels - 1) / kChannels;
  const int64_t group = blockIdx.y / parts, channel = blockIdx.y % parts * kChannels;
  const int px = threadIdx.x % kSide, cx = threadIdx.x / kSide;
  for (int64_t tile = blockIdx.x; tile < g.batch * tiles; tile += gridDim.x) {
    const int64_t b = tile / tiles, first = tile % tiles * pixels;
    C sums[own_channels][own_pixels] = {};
    Chunk chunk;
    for (bool more = first_chunk(g, group, 0, chunk); more; more = next_chunk(g, group, chunk)) {
      for (int i = threadIdx.x; i < kDepth * kChannels; i += kThreads) {
        const int64_t element = i % kDepth, o = channel + i / kDepth;
        const bool there = element < chunk.count() && o < size;
        const int64_t at = ((group * size + o) * g.group_channels() + chunk.channel(element) -
                            group * g.group_channels()) * g.taps + chunk.tap(element);
        weights[element][i / kDepth] = there ? static_cast<C>(weight[at]) : C(0);
      }
      sample_chunk(g, source, b, chunk, first, positions, columns);
      __syncthreads();
      for (int k = 0; k < kDepth; ++k)
        for (int c = 0; c < own_channels; ++c)
          for (int p = 0; p < own_pixels; ++p)
            sums[c][p] += weights[k][cx * own_channels + c] * columns[k][px + p * kSide];
      __syncthreads();
    }
    for (int c = 0; c < own_channels; ++c) {
      const int64_t within = channel + cx * own_channels + c, o = group * size + within;
      if (within >= size) continue;
      const C start = bias ? static_cast<C>(bias[o]) : C(0);
      for (int p = 0; p < own_pixels; ++p) {
        const int64_t pixel = first + px + p * kSide;
        if (pixel < g.pixels())
          out[b * os.b + o * os.c + pixel / g.out_width * os.h + pixel % g.out_width * os.w] =
              static_cast<T>(sums[c][p] + start);
      }
    }
  }
}

// One thread for each image, offset group, tap and output pixel: the gradients of its offset and mask, and what the
// sample's channels scatter into the gradient of the input (zero before).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    deform_conv2d_backward_samples_kernel(Geometry g, Source<T> source, const T* weight, const T* grad, Strides gs,
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
    deform_conv2d_backward_weight_kernel(Geometry g, Source<T> source, const T* grad, Strides gs,
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

unsigned at_most(int64_t wanted, int64_t most) { return static_cast<unsigned>(wanted < most ? wanted : most); }

Tensor prepared(const Tensor& x, ScalarType type) { return torch::stable::contiguous(to_type(x, type)); }

template <typename T>
Source<T> source_of(const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask) {
  using C = compute_t<T>;
  return {static_cast<const T*>(input.data_ptr()), strides(input), static_cast<const C*>(offset.data_ptr()),
          mask ? static_cast<const C*>(mask->data_ptr()) : nullptr};
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
  Tensor out = empty(input, {g.batch, g.out_channels, g.out_height, g.out_width}, input.scalar_type(),
                     memory_format(input));
  if (out.numel() == 0) return out;
  const ScalarType type = compute_type(input.scalar_type());
  const Tensor offset = prepared(given_offset, type), weight = torch::stable::contiguous(given_weight);
  std::optional<Tensor> mask, bias;
  if (given_mask) mask = prepared(*given_mask, type);
  if (given_bias) bias = torch::stable::contiguous(*given_bias);
  const int64_t parts = (g.out_channels / g.groups + kChannels - 1) / kChannels;
  MSR_CHECK(g.groups * parts <= 65535, "deform_conv2d: too many groups: ", g.groups);
  dispatch_floating(input.scalar_type(), "deform_conv2d", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t pixels = kPixels<compute_t<T>>, tiles = g.batch * ((g.pixels() + pixels - 1) / pixels);
    launch(deform_conv2d_kernel<T>, dim3(at_most(tiles, 1 << 30), at_most(g.groups * parts, 65535)), dim3(kThreads), 0,
           input, g, source_of<T>(input, offset, mask), static_cast<const T*>(weight.data_ptr()),
           bias ? static_cast<const T*>(bias->data_ptr()) : nullptr, static_cast<T*>(out.data_ptr()), strides(out));
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward_cuda(
    const Tensor& grad, const Tensor& input, const Tensor& given_offset, const Tensor& given_weight,
    const std::optional<Tensor>& given_mask, const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
    const std::vector<int64_t>& dilation) {
  using namespace deform;
  const Geometry g = geometry_of(input, given_offset, given_weight, std::nullopt, given_mask, stride, padding, dilation);
  const ScalarType type = compute_type(input.scalar_type());
  const Tensor offset = prepared(given_offset, type), weight = torch::stable::contiguous(given_weight);
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
      const auto source = source_of<T>(input, offset, mask);
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
  m.impl("deform_conv2d", TORCH_BOX(&msr::deform_conv2d_cuda));
  m.impl("deform_conv2d_backward", TORCH_BOX(&msr::deform_conv2d_backward_cuda));
}

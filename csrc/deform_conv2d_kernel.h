// The forward pass of deform_conv2d on CUDA, for offsets and masks from any source. Samples go through shared memory in
// chunks of a few elements (channel and tap) by some dozen pixels and are multiplied there; no buffer of all columns
// exists. Sums are float32, float64 for float64.
#pragma once

#include "deform_conv2d.h"

namespace msr::deform {
namespace {

constexpr int kDepth = 16;     // elements of a chunk
constexpr int kChannels = 64;  // output channels of a block
constexpr int kSide = 16;      // a block is kSide x kSide threads, each with some pixels and kChannels / kSide channels

template <typename C>
constexpr int kPixels = sizeof(C) == 8 ? 32 : 64;  // pixels of a block, as shared memory allows

// How one tap of one output pixel moves, and how much its sample counts.
template <typename C>
struct Move {
  C down, right, strength;
};

// The image, and where the moves come from: moves.at(g, b, offset_group, tap, pixel) is a Move.
template <typename T, typename Moves>
struct Source {
  const T* input;
  Strides strides;
  Moves moves;
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

template <typename T, typename Moves>
__device__ __forceinline__ Position<compute_t<T>> position_at(const Geometry& g, const Source<T, Moves>& source,
                                                              int64_t b, int64_t offset_group, int64_t tap,
                                                              int64_t pixel) {
  using C = compute_t<T>;
  const Move<C> move = source.moves.at(g, b, offset_group, tap, pixel);
  const int64_t y = pixel / g.out_width * g.stride_h - g.padding_h + tap / g.kernel_w * g.dilation_h;
  const int64_t x = pixel % g.out_width * g.stride_w - g.padding_w + tap % g.kernel_w * g.dilation_w;
  Position<C> at;
  at.top = locate<C>(static_cast<C>(y) + move.down, static_cast<C>(g.height), at.fy);
  at.left = locate<C>(static_cast<C>(x) + move.right, static_cast<C>(g.width), at.fx);
  at.strength = move.strength;
  return at;
}

// A pixel of the input, 0 outside of it.
template <typename T, typename Moves>
__device__ __forceinline__ compute_t<T> pixel_at(const Geometry& g, const Source<T, Moves>& source, const T* plane,
                                                 int row, int column) {
  const bool inside = row >= 0 && row < g.height && column >= 0 && column < g.width;
  return inside ? static_cast<compute_t<T>>(plane[row * source.strides.h + column * source.strides.w]) : compute_t<T>(0);
}

template <typename T, typename Moves>
__device__ __forceinline__ compute_t<T> sample(const Geometry& g, const Source<T, Moves>& source, int64_t b,
                                               int64_t channel, const Position<compute_t<T>>& at) {
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
template <typename T, typename Moves>
__device__ __forceinline__ void sample_chunk(const Geometry& g, const Source<T, Moves>& source, int64_t b,
                                             const Chunk& chunk, int64_t first,
                                             Position<compute_t<T>> (*positions)[kPixels<compute_t<T>>],
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

template <typename T, typename Moves>
__global__ void __launch_bounds__(kThreads)
    deform_conv2d_kernel(Geometry g, Source<T, Moves> source, const T* weight, const T* bias, T* out, Strides os) {
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

unsigned at_most(int64_t wanted, int64_t most) { return static_cast<unsigned>(wanted < most ? wanted : most); }

Tensor prepared(const Tensor& x, ScalarType type) { return as_contiguous(to_type(x, type)); }

// The forward pass; moves_of(Tag<T>) gives the moves for inputs of type T.
template <typename MovesOf>
Tensor forward(const char* op, const Geometry& g, const Tensor& input, const Tensor& given_weight,
               const std::optional<Tensor>& given_bias, const MovesOf& moves_of) {
  Tensor out = empty(input, {g.batch, g.out_channels, g.out_height, g.out_width}, input.scalar_type(),
                     memory_format(input));
  if (out.numel() == 0) return out;
  const Tensor weight = as_contiguous(given_weight);
  std::optional<Tensor> bias;
  if (given_bias) bias = as_contiguous(*given_bias);
  const int64_t parts = (g.out_channels / g.groups + kChannels - 1) / kChannels;
  MSR_CHECK(g.groups * parts <= 65535, op, ": too many groups: ", g.groups);
  dispatch_floating(input.scalar_type(), op, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto moves = moves_of(tag);
    const Source<T, std::decay_t<decltype(moves)>> source{static_cast<const T*>(input.data_ptr()), strides(input), moves};
    const int64_t pixels = kPixels<compute_t<T>>, tiles = g.batch * ((g.pixels() + pixels - 1) / pixels);
    launch(deform_conv2d_kernel<T, std::decay_t<decltype(moves)>>,
           dim3(at_most(tiles, 1 << 30), at_most(g.groups * parts, 65535)), dim3(kThreads), 0, input, g, source,
           static_cast<const T*>(weight.data_ptr()), bias ? static_cast<const T*>(bias->data_ptr()) : nullptr,
           static_cast<T*>(out.data_ptr()), strides(out));
  });
  return out;
}

}  // namespace
}  // namespace msr::deform

// What deform_conv2d's CPU kernels work with: the plan of the tiles, the tile functions of each instruction set, packed
// weights, padded planes and the reading of tensors in any layout and dtype.
#pragma once

#include "deform_conv2d.h"
#include "deform_conv2d_memory.h"

#if defined(__x86_64__) && !defined(__clang__)
#define MSR_DEFORM_SIMD 1
#include <immintrin.h>
#endif

#include <algorithm>
#include <optional>

namespace msr::deform {
namespace {

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

struct Span {
  int64_t begin, end;
};

// The geometry in the form of the tiles: channels of each offset group in quads, output channels in vectors.
struct Plan : Geometry {
  int64_t group_quads;  // quads of one offset group
  int64_t quads;        // of all
  int64_t row, plane;   // elements of a row and of all of one quad's padded plane
  int64_t out_padded;   // output channels of one group, rounded up to vectors
  int64_t tile;         // room for pixels in a tile
  int64_t chunk;        // offset groups of one thread of the backward pass
  int64_t wanted_row;   // elements of the gradient of one pixel's columns of a chunk, and room for a vector
  int64_t block;        // offset groups that are sampled before they are multiplied
  int64_t parts, tile_width, tile_rows;

  Plan(const Geometry& geometry, int64_t lanes, int64_t chunk = 1) : Geometry(geometry), chunk(chunk) {
    group_quads = round_up(offset_group_channels(), 4) / 4;
    quads = group_quads * offset_groups;
    row = 4 * (width + 3);
    plane = (height + 4) * row;
    out_padded = round_up(out_channels / groups, std::max<int64_t>(lanes, 4));
    wanted_row = round_up(chunk * group_quads * taps * 4, lanes) + lanes;
    // About a hundred pixels, fewer where one group's columns would take more than a quarter megabyte: a part of one
    // row, or several whole rows, so that the pixels of a tile follow each other in memory.
    const int64_t each = group_quads * taps * 4;
    const int64_t most = std::clamp<int64_t>((int64_t{1} << 16) / each, 24, 112);
    parts = (out_width + most - 1) / most;
    tile_width = parts > 1 ? round_up((out_width + parts - 1) / parts, 16) : out_width;  // whole vectors of positions
    parts = (out_width + tile_width - 1) / tile_width;
    tile_rows = parts > 1 ? 1 : std::min(most / out_width, out_height);
    tile = round_up(tile_width * tile_rows, 24);  // a multiple of every block height in multiply()
    block = std::clamp<int64_t>(8192 / (each * tile), 1, offset_groups);
  }

  // Tiles of an image, row by row.
  int64_t tiles() const { return parts * ((out_height + tile_rows - 1) / tile_rows); }
  Span pixels_of(int64_t number) const {
    const int64_t row = number / parts * tile_rows, column = number % parts * tile_width;
    if (parts == 1) return {row * out_width, std::min(row + tile_rows, out_height) * out_width};
    return {row * out_width + column, row * out_width + std::min(column + tile_width, out_width)};
  }
  // Where the first tap of output pixels begin, begin + 1, .. lies in the input.
  template <typename T>
  void bases(int64_t begin, int64_t count, T* y, T* x) const {
    for (int64_t p = 0; p < count; ++p) {
      y[p] = static_cast<T>((begin + p) / out_width * stride_h - padding_h);
      x[p] = static_cast<T>((begin + p) % out_width * stride_w - padding_w);
    }
  }
  int64_t quad_of(int64_t channel) const {
    return channel / offset_group_channels() * group_quads + channel % offset_group_channels() / 4;
  }
  // The channel of element j of a quad, -1 where it is padding.
  int64_t channel_of(int64_t quad, int64_t j) const {
    const int64_t within = quad % group_quads * 4 + j;
    return within < offset_group_channels() ? quad / group_quads * offset_group_channels() + within : -1;
  }
  // The quads that hold a convolution group's channels; at either end they may hold a neighbour's, too.
  Span quads_of(int64_t group) const {
    return {quad_of(group * group_channels()), quad_of((group + 1) * group_channels() - 1) + 1};
  }
  // Those of them that belong to some offset groups; none where begin >= end.
  Span shared_quads(int64_t group, Span some) const {
    const Span all = quads_of(group);
    return {std::max(all.begin, some.begin * group_quads), std::min(all.end, some.end * group_quads)};
  }
};

// Gradients of one tile: those of the output as rows of pixels come in, the others go out. Offsets and masks are rows of
// pixels, too; weights are added up, for each convolution group [elements of these offset groups][out_padded].
template <typename T>
struct Gradients {
  const T* out;
  int64_t out_row;
  T *planes, *offsets, *masks;
  int64_t offset_stride, mask_stride;
  T* weights;
};

// Where a tile's outputs lie (in the input, before the offsets) and the offsets and masks themselves: the row of channel
// c starts at offsets + c * offset_stride.
template <typename T>
struct Tile {
  const T *base_y, *base_x, *offsets, *masks;
  int64_t offset_stride, mask_stride, count;
};

// One tap's samples of a tile, see locate_samples.
template <typename T>
struct Samples {
  int* index;
  T *upper, *lower, *right;  // weights of the rows, times the mask, and of the right column
  T *above, *below;          // the first two without the mask (backward)
};

}  // namespace
}  // namespace msr::deform

#define MSR_ISA baseline
#define MSR_VECTOR_BYTES 16
#include "deform_conv2d_tile.h"
#include "deform_conv2d_gradients.h"
#undef MSR_ISA
#undef MSR_VECTOR_BYTES

#if MSR_DEFORM_SIMD
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define MSR_ISA avx2
#define MSR_VECTOR_BYTES 32
#include "deform_conv2d_tile.h"
#include "deform_conv2d_gradients.h"
#undef MSR_ISA
#undef MSR_VECTOR_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC's own intrinsics, where it does not matter
#define MSR_ISA avx512
#define MSR_VECTOR_BYTES 64
#include "deform_conv2d_tile.h"
#include "deform_conv2d_gradients.h"
#include "deform_conv2d_interleaved.h"
#undef MSR_ISA
#undef MSR_VECTOR_BYTES
#pragma GCC target("avx512bf16")
#include "deform_conv2d_bfloat16.h"
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif

namespace msr::deform {
namespace {

// The tile functions for this machine.
template <typename T>
struct Kernels {
  int64_t lanes, panel;
  decltype(&baseline::forward_tile<T>) forward;
  decltype(&baseline::backward_tile<T>) backward;
  decltype(&baseline::transpose<T>) transpose;
};

#define MSR_KERNELS(isa) \
  {isa::Lanes<T>::count, isa::Lanes<T>::panel, isa::forward_tile<T>, isa::backward_tile<T>, isa::transpose<T>}

template <typename T>
Kernels<T> kernels() {
#if MSR_DEFORM_SIMD
  if (simd() == Simd::avx512) return MSR_KERNELS(avx512);
  if (simd() == Simd::avx2) return MSR_KERNELS(avx2);
#endif
  return MSR_KERNELS(baseline);
}

#undef MSR_KERNELS

// Whether the forward pass of such a plan multiplies bfloat16 numbers: see deform_conv2d_bfloat16.h.
inline bool multiplies_bfloat16(const Plan& plan, ScalarType type) {
#if MSR_DEFORM_SIMD
  return type == ScalarType::BFloat16 && simd() == Simd::avx512 && __builtin_cpu_supports("avx512bf16") &&
         plan.groups == 1 && plan.out_padded <= 64;
#else
  return false;
#endif
}

// The tile function of the forward pass for a plan.
template <typename T>
decltype(Kernels<T>::forward) forward_kernel(const Plan& plan, [[maybe_unused]] bool bfloat16) {
#if MSR_DEFORM_SIMD
  if constexpr (sizeof(T) == sizeof(float)) {
    if (simd() == Simd::avx512 && plan.groups == 1) {
      const int64_t vectors = plan.out_padded / avx512::Lanes<T>::count;
      const auto of = [&](auto full, auto half) {
        return bfloat16 ? avx512::forward_interleaved<decltype(half)> : avx512::forward_interleaved<decltype(full)>;
      };
      using namespace avx512_bf16;
      if (vectors == 1) return of(avx512::FloatProduct<12, 1>{}, BFloat16Product<12, 1>{});
      if (vectors == 2) return of(avx512::FloatProduct<12, 2>{}, BFloat16Product<12, 2>{});
      if (vectors == 3) return of(avx512::FloatProduct<8, 3>{}, BFloat16Product<8, 3>{});
      if (vectors == 4) return of(avx512::FloatProduct<6, 4>{}, BFloat16Product<6, 4>{});
    }
  }
#endif
  return kernels<T>().forward;
}

// A tensor whose pixels can be walked with one stride: element (b, c, pixel) is at b * batch + c * channel + pixel * pixel.
struct Pixels {
  Tensor tensor;
  const void* data;
  ScalarType type;
  int64_t channels, batch, channel, pixel;

  explicit Pixels(const Tensor& given)
      : tensor(given.stride(2) == given.stride(3) * given.size(3) ? given : as_contiguous(given)),
        data(tensor.data_ptr()),
        type(tensor.scalar_type()),
        channels(tensor.size(1)),
        batch(tensor.stride(0)),
        channel(tensor.stride(1)),
        pixel(tensor.size(3) > 1 ? tensor.stride(3) : tensor.stride(2)) {}

  // `count` channels from `first` on.
  Pixels part(int64_t first, int64_t count) const {
    Pixels some = *this;
    dispatch_floating(type, "deform_conv2d", [&](auto tag) {
      using S = typename decltype(tag)::type;
      some.data = static_cast<const S*>(data) + first * channel;
    });
    some.channels = count;
    return some;
  }
  template <typename T>
  bool holds() const {
    return type == (sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float);
  }
};

// Copies `count` pixels of all channels to rows of `row` elements, converting them.
template <typename T>
void load_rows(const Pixels& from, int64_t batch, int64_t begin, int64_t count, T* to, int64_t row) {
  if (from.channel == 1 && from.holds<T>()) {
    const T* source = static_cast<const T*>(from.data) + batch * from.batch + begin * from.pixel;
    return kernels<T>().transpose(source, from.pixel, count, from.channels, to, row);
  }
  dispatch_floating(from.type, "deform_conv2d", [&](auto tag) {
    using S = typename decltype(tag)::type;
    const S* source = static_cast<const S*>(from.data) + batch * from.batch + begin * from.pixel;
    const int64_t channels = from.channels;
    if (from.pixel == 1)
      return with_simd([=] {
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t p = 0; p < count; ++p) to[c * row + p] = load(source[c * from.channel + p]);
      });
    // A few pixels of a few channels at a time, converted as they lie and turned round in the cache.
    constexpr int64_t most = 16, wide = 64;
    alignas(64) T some[most * wide];
    const auto turn = kernels<T>().transpose;
    for (int64_t p = 0; p < count; p += most)
      for (int64_t c = 0; c < channels; c += wide) {
        const int64_t pixels = std::min(most, count - p), width = std::min(wide, channels - c);
        with_simd([&, at = source + c * from.channel + p * from.pixel] {
          for (int64_t i = 0; i < pixels; ++i)
            if (from.channel == 1)
              for (int64_t j = 0; j < width; ++j) some[i * wide + j] = load(at[j + i * from.pixel]);
            else
              for (int64_t j = 0; j < width; ++j) some[i * wide + j] = load(at[j * from.channel + i * from.pixel]);
        });
        turn(some, wide, pixels, width, to + c * row + p, row);
      }
  });
}

// Writes images as planes of quads in zeros: [image][quad][height + 4][width + 3][4], the image from row and column 2
// on. The column to the right of the last is the first of the next row, so one more pixel follows the last plane.
template <typename T>
void quad_planes(const Plan& plan, const Tensor& input, Span images, Span quads, T* out) {
  const Strides stride = strides(input);
  const int64_t batch = images.end - images.begin, each = quads.end - quads.begin;
  std::fill_n(out + batch * each * plan.plane, 4, T(0));
  dispatch_floating(input.scalar_type(), "deform_conv2d", [&](auto tag) {
    using S = typename decltype(tag)::type;
    const S* data = static_cast<const S*>(input.data_ptr());
    const int64_t rows = plan.height + 4;
    parallel(batch * rows, each * plan.row, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = images.begin + i / rows, y = i % rows - 2;
        for (int64_t quad = quads.begin; quad < quads.end; ++quad) {
          T* to = out + (i / rows * each + quad - quads.begin) * plan.plane + (y + 2) * plan.row;
          int64_t valid = 0;
          while (valid < 4 && plan.channel_of(quad, valid) >= 0) ++valid;
          const bool outside = y < 0 || y >= plan.height;
          std::fill_n(to, outside || valid < 4 ? plan.row : 8, T(0));
          if (outside) continue;
          const S* from = data + b * stride.b + plan.channel_of(quad, 0) * stride.c + y * stride.h;
          std::fill_n(to + plan.row - 4, 4, T(0));
          to += 8;
          const auto copy = [&](int64_t count, int64_t next_channel, int64_t next_column) {
            for (int64_t x = 0; x < plan.width; ++x)
              for (int64_t j = 0; j < count; ++j) to[4 * x + j] = load(from[x * next_column + j * next_channel]);
          };
          if (valid == 4 && stride.w == 1)
            copy(4, stride.c, 1);
          else if (valid == 4 && stride.c == 1)
            copy(4, 1, stride.w);
          else
            copy(valid, stride.c, stride.w);
        }
      }
    });
  });
}

// Where the weights of a group lie: weight(element, out) = all[inner[element] + outer[out]], -1 for padding. Elements are
// (quad, tap, j) as in the columns.
struct WeightIndex {
  std::vector<int64_t> inner, outer;

  WeightIndex(const Plan& plan, int64_t group, Span quads) {
    const int64_t first = group * plan.group_channels(), size = plan.out_channels / plan.groups;
    for (int64_t quad = quads.begin; quad < quads.end; ++quad)
      for (int64_t tap = 0; tap < plan.taps; ++tap)
        for (int64_t j = 0; j < 4; ++j) {
          const int64_t channel = plan.channel_of(quad, j) - first;
          const bool padding = plan.channel_of(quad, j) < 0 || channel < 0 || channel >= plan.group_channels();
          inner.push_back(padding ? -1 : channel * plan.taps + tap);
        }
    for (int64_t out = 0; out < plan.out_padded; ++out)
      outer.push_back(out < size ? (group * size + out) * plan.group_channels() * plan.taps : -1);
  }
};

// Packs the matrix all[rows[k] + columns[n]] for multiply(): panels of `width` columns, each [k][width].
template <typename T>
void pack_panels(const T* all, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns, int64_t width,
                 Vector<T>& out) {
  const int64_t count = static_cast<int64_t>(columns.size());
  for (int64_t first = 0; first < count; first += width)
    for (const int64_t row : rows)
      for (int64_t n = first; n < std::min(first + width, count); ++n)
        out.push_back(row < 0 || columns[n] < 0 ? T(0) : all[row + columns[n]]);
}

template <typename T>
std::vector<T> as_vector(const Tensor& tensor) {
  const Tensor flat = as_contiguous(tensor);
  std::vector<T> values(static_cast<size_t>(flat.numel()));
  dispatch_floating(flat.scalar_type(), "deform_conv2d", [&](auto tag) {
    using S = typename decltype(tag)::type;
    const S* from = static_cast<const S*>(flat.data_ptr());
    for (size_t i = 0; i < values.size(); ++i) values[i] = load(from[i]);
  });
  return values;
}

// The buffers one thread needs to look at tiles: positions, offsets and masks where they must be converted, samples.
template <typename T>
struct TileReader {
  const Plan& plan;
  const Pixels& offset;
  const Pixels* mask;
  Buffer<T> memory;
  Buffer<int> index;
  T *base_y, *base_x, *offsets, *masks, *ones;
  Samples<T> samples;

  TileReader(const Plan& plan, const Pixels& offset, const Pixels* mask) : plan(plan), offset(offset), mask(mask) {
    const int64_t n = plan.tile, rows = offset.channels / 2;
    memory = buffer<T>(n * 8 + n * 3 * rows);
    index = buffer<int>(n);
    T* at = memory.get();
    std::fill(at, at + 8 * n, T(1));  // the eighth row stays: ones for a mask that is not there
    base_y = at, base_x = at + n;
    samples = {index.get(), at + 2 * n, at + 3 * n, at + 4 * n, at + 5 * n, at + 6 * n};
    ones = at + 7 * n;
    masks = mask ? at + 8 * n : ones;
    offsets = at + 8 * n + rows * n;
  }

  Tile<T> read(int64_t batch, Span pixels) {
    const int64_t begin = pixels.begin, count = pixels.end - begin;
    plan.bases(begin, count, base_y, base_x);
    Tile<T> tile{base_y, base_x, offsets, masks, plan.tile, mask ? plan.tile : 0, count};
    const auto rows = [&](const Pixels& from, T* copy, const T*& row, int64_t& stride) {
      if (from.pixel == 1 && from.holds<T>()) {
        row = static_cast<const T*>(from.data) + batch * from.batch + begin;
        stride = from.channel;
      } else {
        load_rows(from, batch, begin, count, copy, plan.tile);
      }
    };
    rows(offset, offsets, tile.offsets, tile.offset_stride);
    if (mask) rows(*mask, masks, tile.masks, tile.mask_stride);
    return tile;
  }
};

}  // namespace
}  // namespace msr::deform

// The gradients of deform_conv2d on the CPU. One unit of work is an offset group of one image: its channels, offsets and
// masks are no other unit's, so nothing is added to by two threads. Weights and bias are summed over the images at the end.
#include <algorithm>
#include <memory>
#include <optional>

#include "deform_conv2d.h"

namespace msr::deform {
namespace {

constexpr int64_t kTile = 32;  // pixels whose columns and their gradients stay in the cache

// What one unit reads and writes; tensors are of type T whatever the arguments were.
template <typename T>
struct Data {
  const T *grad, *input, *offset, *mask;
  Strides grad_strides, input_strides, grad_input_strides;
  T *grad_input, *grad_offset, *grad_mask;
};

// The channels of an offset group that belong to one group of the convolution, taps outside, channels inside.
struct Segment {
  int64_t begin, size;       // channels, counted within the offset group
  int64_t group;             // of the convolution
  int64_t first_in_group;    // its first channel within that group
};

std::vector<Segment> segments_of(const Geometry& g, int64_t offset_group) {
  std::vector<Segment> out;
  const int64_t start = offset_group * g.offset_group_channels();
  for (int64_t c = 0; c < g.offset_group_channels();) {
    const int64_t group = (start + c) / g.group_channels();
    const int64_t first = start + c - group * g.group_channels();
    const int64_t size = std::min(g.offset_group_channels() - c, g.group_channels() - first);
    out.push_back({c, size, group, first});
    c += size;
  }
  return out;
}

// rows x size: to[i][k] += sum over j of factor[i * outer + j * inner] * from[j][k].
template <typename T>
MSR_HOST_DEVICE void multiply_add(T* to, int64_t to_stride, int64_t rows, const T* factor, int64_t outer, int64_t inner,
                                  const T* from, int64_t from_stride, int64_t count, int64_t size) {
  for (int64_t i = 0; i < rows; ++i) {
    T* sum = to + i * to_stride;
    const T* f = factor + i * outer;
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) {
      const T a = f[j * inner], b = f[(j + 1) * inner], c = f[(j + 2) * inner], d = f[(j + 3) * inner];
      const T *p = from + j * from_stride, *q = p + from_stride, *r = q + from_stride, *s = r + from_stride;
      for (int64_t k = 0; k < size; ++k) sum[k] += a * p[k] + b * q[k] + c * r[k] + d * s[k];
    }
    for (; j < count; ++j) {
      const T a = f[j * inner];
      const T* p = from + j * from_stride;
      for (int64_t k = 0; k < size; ++k) sum[k] += a * p[k];
    }
  }
}

// One unit. `weight` and `grad_weight` are packed [segment][output channel of its group][tap][channel of the segment].
template <typename T>
MSR_HOST_DEVICE void run_unit(const Geometry& g, const Data<T>& data, int64_t b, int64_t offset_group,
                              const std::vector<Segment>& segments, const T* weight, T* grad_weight, T* scratch) {
  const int64_t channels = g.offset_group_channels(), row = (g.width + 2) * channels;
  const int64_t plane = (g.height + 2) * row, depth = g.taps * channels, pixels = g.pixels();
  const int64_t outs = g.out_channels / g.groups;
  T* image = scratch;                  // the channels of this unit, [y][x][channel], one pixel of zeros around
  T* grad_image = image + plane;       // likewise
  T* columns = grad_image + plane;     // [pixel][segment: tap, channel]
  T* grad_columns = columns + kTile * depth;
  T* grad_out = grad_columns + kTile * depth;  // [pixel][output channel]
  std::fill(image, image + 2 * plane, T(0));
  const Strides& in = data.input_strides;
  const T* source = data.input + b * in.b + offset_group * channels * in.c;
  for (int64_t y = 0; y < g.height; ++y)
    for (int64_t x = 0; x < g.width; ++x)
      for (int64_t c = 0; c < channels; ++c)
        image[(y + 1) * row + (x + 1) * channels + c] = source[y * in.h + x * in.w + c * in.c];

  const T* offset = data.offset + (b * g.offset_groups + offset_group) * g.taps * 2 * pixels;
  T* grad_offset = data.grad_offset + (b * g.offset_groups + offset_group) * g.taps * 2 * pixels;
  const int64_t mask_start = (b * g.offset_groups + offset_group) * g.taps * pixels;
  for (int64_t start = 0; start < pixels; start += kTile) {
    const int64_t count = std::min(kTile, pixels - start);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t y = (start + i) / g.out_width, x = (start + i) % g.out_width;
      const T* from = data.grad + b * data.grad_strides.b + y * data.grad_strides.h + x * data.grad_strides.w;
      for (int64_t o = 0; o < g.out_channels; ++o) grad_out[i * g.out_channels + o] = from[o * data.grad_strides.c];
    }
    std::fill(columns, columns + 2 * kTile * depth, T(0));
    const T* packed = weight;
    for (const Segment& s : segments) {
      const int64_t size = g.taps * s.size;
      multiply_add(grad_columns + g.taps * s.begin, depth, count, grad_out + s.group * outs, g.out_channels, int64_t{1},
                   packed, size, outs, size);
      packed += outs * size;
    }
    for (int64_t tap = 0; tap < g.taps; ++tap) {
      const int64_t tap_y = tap / g.kernel_w * g.dilation_h - g.padding_h;
      const int64_t tap_x = tap % g.kernel_w * g.dilation_w - g.padding_w;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t pixel = start + i;
        const T y = static_cast<T>(pixel / g.out_width * g.stride_h + tap_y) + offset[2 * tap * pixels + pixel];
        const T x = static_cast<T>(pixel % g.out_width * g.stride_w + tap_x) + offset[(2 * tap + 1) * pixels + pixel];
        int top = 0, left = 0;
        T fy, fx;
        T dy = 0, dx = 0, dm = 0;
        if (locate(y, x, static_cast<T>(g.height), static_cast<T>(g.width), top, left, fy, fx)) {
          const T strength = data.mask ? data.mask[mask_start + tap * pixels + pixel] : T(1);
          const int64_t corner = (top + 1) * row + (left + 1) * channels;
          const T w00 = (1 - fy) * (1 - fx), w01 = (1 - fy) * fx, w10 = fy * (1 - fx), w11 = fy * fx;
          for (const Segment& s : segments) {
            const int64_t at = i * depth + g.taps * s.begin + tap * s.size;
            T* column = columns + at;
            const T* grad_column = grad_columns + at;
            const T *p = image + corner + s.begin, *q = p + row;
            T *gp = grad_image + corner + s.begin, *gq = gp + row;
            for (int64_t c = 0; c < s.size; ++c) {
              const T a = p[c], e = p[c + channels], f = q[c], h = q[c + channels], grad = grad_column[c];
              const T value = w00 * a + w01 * e + w10 * f + w11 * h;
              column[c] = value * strength;
              dm += grad * value;
              dy += grad * ((1 - fx) * (f - a) + fx * (h - e));
              dx += grad * ((1 - fy) * (e - a) + fy * (h - f));
            }
            for (int64_t c = 0; c < s.size; ++c) {
              const T grad = grad_column[c] * strength;
              gp[c] += grad * w00;
              gq[c] += grad * w10;
            }
            for (int64_t c = 0; c < s.size; ++c) {
              const T grad = grad_column[c] * strength;
              gp[c + channels] += grad * w01;
              gq[c + channels] += grad * w11;
            }
          }
          dy *= strength;
          dx *= strength;
        }
        grad_offset[2 * tap * pixels + pixel] = dy;
        grad_offset[(2 * tap + 1) * pixels + pixel] = dx;
        if (data.mask) data.grad_mask[mask_start + tap * pixels + pixel] = dm;
      }
    }
    T* sums = grad_weight;
    for (const Segment& s : segments) {
      const int64_t size = g.taps * s.size;
      multiply_add(sums, size, outs, grad_out + s.group * outs, int64_t{1}, g.out_channels, columns + g.taps * s.begin,
                   depth, count, size);
      sums += outs * size;
    }
  }
  const Strides& to = data.grad_input_strides;
  T* target = data.grad_input + b * to.b + offset_group * channels * to.c;
  for (int64_t y = 0; y < g.height; ++y)
    for (int64_t x = 0; x < g.width; ++x)
      for (int64_t c = 0; c < channels; ++c)
        target[y * to.h + x * to.w + c * to.c] = grad_image[(y + 1) * row + (x + 1) * channels + c];
}

template <typename T>
const T* data_of(const Tensor& t) {
  return static_cast<const T*>(t.data_ptr());
}

template <typename T>
void backward(const Geometry& g, const Tensor& grad, const Tensor& input, const Tensor& offset, const Tensor& weight,
              const std::optional<Tensor>& mask, const Tensor& grad_input, const Tensor& grad_offset,
              const Tensor& grad_weight, const Tensor& grad_bias, const Tensor& grad_mask) {
  const int64_t outs = g.out_channels / g.groups, channels = g.offset_group_channels();
  const int64_t share = outs * g.taps * channels;  // packed weights of one offset group
  std::vector<std::vector<Segment>> segments;
  for (int64_t og = 0; og < g.offset_groups; ++og) segments.push_back(segments_of(g, og));

  // Calls body(packed index, index in (Cout, C / groups, kh, kw)) for every weight that an offset group meets.
  const auto each_weight = [&](const auto& body) {
    int64_t packed = 0;
    for (const auto& parts : segments)
      for (const Segment& s : parts)
        for (int64_t o = 0; o < outs; ++o)
          for (int64_t tap = 0; tap < g.taps; ++tap)
            for (int64_t c = 0; c < s.size; ++c, ++packed)
              body(packed, ((s.group * outs + o) * g.group_channels() + s.first_in_group + c) * g.taps + tap);
  };
  std::vector<T> packed(g.offset_groups * share), sums(g.batch * g.offset_groups * share, T(0));
  const T* weights = data_of<T>(weight);
  each_weight([&](int64_t i, int64_t j) { packed[i] = weights[j]; });

  Data<T> data{};
  data.grad = data_of<T>(grad), data.input = data_of<T>(input), data.offset = data_of<T>(offset);
  data.mask = mask ? data_of<T>(*mask) : nullptr;
  data.grad_strides = strides(grad), data.input_strides = strides(input), data.grad_input_strides = strides(grad_input);
  data.grad_input = static_cast<T*>(grad_input.data_ptr()), data.grad_offset = static_cast<T*>(grad_offset.data_ptr());
  data.grad_mask = mask ? static_cast<T*>(grad_mask.data_ptr()) : nullptr;
  const int64_t room = 2 * (g.height + 2) * (g.width + 2) * channels +
                       kTile * (2 * g.taps * channels + g.out_channels);
  parallel(g.batch * g.offset_groups, g.pixels() * share, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<T[]> scratch(new T[room]);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t b = unit / g.offset_groups, og = unit % g.offset_groups;
      with_simd([&] {
        run_unit(g, data, b, og, segments[og], packed.data() + og * share, sums.data() + unit * share, scratch.get());
      });
    }
  });

  T* to = static_cast<T*>(grad_weight.data_ptr());
  std::fill(to, to + grad_weight.numel(), T(0));
  for (int64_t b = 0; b < g.batch; ++b) {
    const T* from = sums.data() + b * g.offset_groups * share;
    each_weight([&](int64_t i, int64_t j) { to[j] += from[i]; });
  }
  T* bias = static_cast<T*>(grad_bias.data_ptr());
  const Strides& s = data.grad_strides;
  parallel(g.out_channels, g.batch * g.pixels(), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      double sum = 0;
      for (int64_t b = 0; b < g.batch; ++b)
        for (int64_t y = 0; y < g.out_height; ++y)
          for (int64_t x = 0; x < g.out_width; ++x) sum += data.grad[b * s.b + o * s.c + y * s.h + x * s.w];
      bias[o] = static_cast<T>(sum);
    }
  });
}

}  // namespace
}  // namespace msr::deform

namespace msr {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward_cpu(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
    const std::vector<int64_t>& dilation) {
  using namespace deform;
  const Geometry g = geometry_of(input, offset, weight, std::nullopt, mask, stride, padding, dilation);
  MSR_CHECK(grad.dim() == 4 && grad.size(0) == g.batch && grad.size(1) == g.out_channels &&
                grad.size(2) == g.out_height && grad.size(3) == g.out_width,
            "deform_conv2d: gradient of another shape than the result: ", describe(grad));
  const ScalarType type = compute_type(input.scalar_type());
  const auto plain = [&](const Tensor& t) { return torch::stable::contiguous(to_type(t, type)); };
  const auto like = [&](const Tensor& t, MemoryFormat format) {
    return empty(t, {t.sizes().begin(), t.sizes().end()}, type, format);
  };
  const Tensor image = to_type(input, type), grads = to_type(grad, type), moves = plain(offset), kernel = plain(weight);
  std::optional<Tensor> masks;
  if (mask) masks.emplace(plain(*mask));
  const Tensor grad_input = like(input, memory_format(input)), grad_offset = like(offset, MemoryFormat::Contiguous);
  const Tensor grad_weight = like(weight, MemoryFormat::Contiguous);
  const Tensor grad_bias = empty(weight, {g.out_channels}, type);
  const Tensor grad_mask =
      mask ? like(*mask, MemoryFormat::Contiguous) : empty(offset, {0}, offset.scalar_type());
  if (type == ScalarType::Double)
    backward<double>(g, grads, image, moves, kernel, masks, grad_input, grad_offset, grad_weight, grad_bias, grad_mask);
  else
    backward<float>(g, grads, image, moves, kernel, masks, grad_input, grad_offset, grad_weight, grad_bias, grad_mask);
  return {to_type(grad_input, input.scalar_type()), to_type(grad_offset, offset.scalar_type()),
          to_type(grad_weight, weight.scalar_type()), to_type(grad_bias, weight.scalar_type()),
          mask ? to_type(grad_mask, mask->scalar_type()) : grad_mask};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) {
  m.impl("deform_conv2d_backward", TORCH_BOX(&msr::deform_conv2d_backward_cpu));
}

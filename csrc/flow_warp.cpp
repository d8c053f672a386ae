// flow_warp on the CPU. Two layouts, each without a copy of the features:
// channels_last: the taps of a pixel are rows of channels, the inner loop runs along the channels;
// NCHW: the taps of a block of pixels are worked out once and used for every channel, the inner loop runs along the pixels.
#include "flow_warp.h"

#include <algorithm>

namespace msr::flow_warp {
namespace {

// ---- channels_last -------------------------------------------------------------------------------------------------

// The taps of one output pixel on both axes, multiplied out.
template <int K, typename T>
struct PixelTaps {
  using C = compute_t<T>;
  Taps<K, C> across, down;

  MSR_HOST_DEVICE PixelTaps(const Flow<C>& flow, const Sizes& s, int64_t b, int64_t i, int64_t j)
      : across(taps<K>(flow.x(b, i, j), s.width, s.border)), down(taps<K>(flow.y(b, i, j), s.height, s.border)) {}

  MSR_HOST_DEVICE bool inside(int k) const { return down.inside[k / K] && across.inside[k % K]; }
  MSR_HOST_DEVICE int64_t offset(int k, const Strides& stride) const {
    return down.index[k / K] * stride.h + across.index[k % K] * stride.w;
  }
};

// Calls body(b, i, j) for the output pixels [begin, end) of the whole batch.
template <typename Body>
MSR_HOST_DEVICE void each_pixel(const Sizes& s, int64_t begin, int64_t end, const Body& body) {
  int64_t b = begin / s.pixels(), i = begin % s.pixels() / s.out_width, j = begin % s.out_width;
  for (int64_t n = begin; n < end; ++n) {
    body(b, i, j);
    if (++j == s.out_width) {
      j = 0;
      if (++i == s.out_height) i = 0, ++b;
    }
  }
}

// Points `rows` at the channels under each tap; taps outside read a row of zeros.
template <int K, typename T>
MSR_HOST_DEVICE void tap_rows(const PixelTaps<K, T>& pixel, const T* image, const Strides& stride, const T* zeros,
                              const T* (&rows)[K * K]) {
  for (int k = 0; k < K * K; ++k) rows[k] = pixel.inside(k) ? image + pixel.offset(k, stride) : zeros;
}

// COUNT channels from c on: of a number that the compiler knows they become one vector, however few they are.
template <int COUNT, int K, typename T>
MSR_HOST_DEVICE void mix_rows(const T* const (&rows)[K * K], const compute_t<T> (&weights)[K * K], int64_t c, T* to) {
#pragma omp simd
  for (int q = 0; q < COUNT; ++q) {
    compute_t<T> sum = 0;
    for (int k = 0; k < K * K; ++k) sum += weights[k] * load(rows[k][c + q]);
    to[c + q] = store<T>(sum);
  }
}

template <int K, typename T>
void forward_channels_last(const T* x, const Strides& xs, const Flow<compute_t<T>>& flow, T* out, const Sizes& s) {
  using C = compute_t<T>;
  const std::vector<T> zeros(s.channels, T(0));
  parallel(s.batch * s.pixels(), s.channels * K * K, [&](int64_t begin, int64_t end) {
    with_simd([&] {
      each_pixel(s, begin, end, [&](int64_t b, int64_t i, int64_t j) {
        const PixelTaps<K, T> pixel(flow, s, b, i, j);
        const T* rows[K * K];
        C weights[K * K];
        tap_rows(pixel, x + b * xs.b, xs, zeros.data(), rows);
        for (int k = 0; k < K * K; ++k) weights[k] = pixel.down.weight[k / K] * pixel.across.weight[k % K];
        T* to = out + ((b * s.out_height + i) * s.out_width + j) * s.channels;
        int64_t c = 0;
        for (; c + 16 <= s.channels; c += 16) mix_rows<16, K>(rows, weights, c, to);
        if (c + 8 <= s.channels) mix_rows<8, K>(rows, weights, c, to), c += 8;
        if (c + 4 <= s.channels) mix_rows<4, K>(rows, weights, c, to), c += 4;
        for (; c < s.channels; ++c) mix_rows<1, K>(rows, weights, c, to);
      });
    });
  });
}

// The gradient of the flow: per pixel, a dot product over the channels.
template <int K, typename T>
void backward_flow_channels_last(const T* grad, const T* x, const Strides& xs, const Flow<compute_t<T>>& flow,
                                 compute_t<T>* grad_flow, const Sizes& s) {
  using C = compute_t<T>;
  const std::vector<T> zeros(s.channels, T(0));
  parallel(s.batch * s.pixels(), 2 * s.channels * K * K, [&](int64_t begin, int64_t end) {
    with_simd([&] {
      each_pixel(s, begin, end, [&](int64_t b, int64_t i, int64_t j) {
        const PixelTaps<K, T> pixel(flow, s, b, i, j);
        const T* rows[K * K];
        C along_x[K * K], along_y[K * K];
        tap_rows(pixel, x + b * xs.b, xs, zeros.data(), rows);
        for (int k = 0; k < K * K; ++k) {
          along_x[k] = pixel.down.weight[k / K] * pixel.across.slope[k % K];
          along_y[k] = pixel.down.slope[k / K] * pixel.across.weight[k % K];
        }
        const T* from = grad + ((b * s.out_height + i) * s.out_width + j) * s.channels;
        C sum_x = C(0), sum_y = C(0);
#pragma omp simd reduction(+ : sum_x, sum_y)
        for (int64_t c = 0; c < s.channels; ++c) {
          C to_x = C(0), to_y = C(0);
          for (int k = 0; k < K * K; ++k) {
            const C value = load(rows[k][c]);
            to_x += along_x[k] * value;
            to_y += along_y[k] * value;
          }
          sum_x += load(from[c]) * to_x;
          sum_y += load(from[c]) * to_y;
        }
        C* to = grad_flow + (b * 2 * s.out_height + i) * s.out_width + j;
        to[0] = sum_x;
        to[s.pixels()] = sum_y;
      });
    });
  });
}

// How many channels one thread takes where threads may only share an image by its channels: a `multiple` that fills cache
// lines, so that no two threads write to the same one.
int64_t channel_share(const Sizes& s, int64_t multiple) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t shares = (threads + s.batch - 1) / s.batch;
  const int64_t share = (s.channels + shares - 1) / shares;
  return std::min(s.channels, (share + multiple - 1) / multiple * multiple);
}

// Calls body(b, first, last) for every image and share of its channels, in parallel.
template <typename Body>
void each_share(const Sizes& s, int64_t multiple, const Body& body) {
  const int64_t share = channel_share(s, multiple), shares = (s.channels + share - 1) / share;
  torch::stable::parallel_for(0, s.batch * shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t first = n % shares * share;
      body(n / shares, first, std::min(first + share, s.channels));
    }
  });
}

// The gradient of x is scattered: each thread owns some channels, so that no two add to the same place.
template <int K, typename T>
void backward_x_channels_last(const T* grad, const Flow<compute_t<T>>& flow, compute_t<T>* grad_x, const Sizes& s) {
  using C = compute_t<T>;
  const Strides gs{s.height * s.width * s.channels, 1, s.width * s.channels, s.channels};
  each_share(s, 16, [&](int64_t image, int64_t first, int64_t last) {
    with_simd([&] {
      each_pixel(s, image * s.pixels(), (image + 1) * s.pixels(), [&](int64_t b, int64_t i, int64_t j) {
        const PixelTaps<K, T> pixel(flow, s, b, i, j);
        const T* from = grad + ((b * s.out_height + i) * s.out_width + j) * s.channels;
        for (int k = 0; k < K * K; ++k) {
          if (!pixel.inside(k)) continue;
          const C weight = pixel.down.weight[k / K] * pixel.across.weight[k % K];
          C* to = grad_x + b * gs.b + pixel.offset(k, gs);
#pragma omp simd
          for (int64_t c = first; c < last; ++c) to[c] += weight * load(from[c]);
        }
      });
    });
  });
}

// ---- NCHW ----------------------------------------------------------------------------------------------------------

// The taps of consecutive output pixels of one image, tap by tap.
template <int K, typename T>
struct BlockTaps {
  using C = compute_t<T>;
  static constexpr int kPixels = K == 4 ? 64 : 256;
  int64_t offset[K * K][kPixels];
  C weight[K * K][kPixels];
  bool inside[K * K][kPixels];
  bool edge;  // whether any tap lies outside

  MSR_HOST_DEVICE void fill(const Flow<C>& flow, const Sizes& s, int64_t row_stride, int64_t b, int64_t begin,
                            int count) {
    each(flow, s, row_stride, b, begin, count, [&](int n, const Taps<K, C>& across, const Taps<K, C>& down) {
      for (int k = 0; k < K * K; ++k) weight[k][n] = down.weight[k / K] * across.weight[k % K];
    });
  }

  template <typename Body>
  MSR_HOST_DEVICE void each(const Flow<C>& flow, const Sizes& s, int64_t row_stride, int64_t b, int64_t begin,
                            int count, const Body& body) {
    edge = false;
    int64_t i = begin / s.out_width, j = begin % s.out_width;
    for (int n = 0; n < count; ++n) {
      const auto across = taps<K>(flow.x(b, i, j), s.width, s.border);
      const auto down = taps<K>(flow.y(b, i, j), s.height, s.border);
      for (int k = 0; k < K * K; ++k) {
        inside[k][n] = down.inside[k / K] && across.inside[k % K];
        offset[k][n] = down.index[k / K] * row_stride + across.index[k % K];
        edge |= !inside[k][n];
      }
      body(n, across, down);
      if (++j == s.out_width) j = 0, ++i;
    }
  }

  template <bool Edge>
  MSR_HOST_DEVICE C read(const T* plane, int k, int n) const {
    return Edge && !inside[k][n] ? C(0) : load(plane[offset[k][n]]);
  }
};

template <int K, bool Edge, typename Block, typename T>
MSR_HOST_DEVICE void forward_plane(const Block& block, const T* plane, T* to, int count) {
  using C = compute_t<T>;
#pragma omp simd
  for (int n = 0; n < count; ++n) {
    C sum = C(0);
    for (int k = 0; k < K * K; ++k) sum += block.weight[k][n] * block.template read<Edge>(plane, k, n);
    to[n] = store<T>(sum);
  }
}

// Bicubic taps of consecutive output pixels, all of whose taps lie within the image: its rows of four are read as they lie.
template <typename T>
struct CubicTaps {
  using C = compute_t<T>;
  static constexpr int kPixels = BlockTaps<4, T>::kPixels;
  C x[kPixels], y[kPixels], across[kPixels][4], down[kPixels][4];
  int64_t offset[kPixels];

  // Whether no tap lies outside; only then do the taps serve.
  MSR_HOST_DEVICE bool fill(const Flow<C>& flow, const Sizes& s, int64_t row_stride, int64_t b, int64_t begin, int count) {
    for (int n = 0; n < count;) {
      const int64_t i = (begin + n) / s.out_width, j = (begin + n) % s.out_width;
      const int end = static_cast<int>(std::min<int64_t>(count, n + s.out_width - j));
      for (int64_t k = j; n < end; ++n, ++k) x[n] = flow.x(b, i, k), y[n] = flow.y(b, i, k);
    }
    const C right = static_cast<C>(s.width - 2), bottom = static_cast<C>(s.height - 2);
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (int n = 0; n < count; ++n)  // true for NaN, too
      outside |= !((x[n] >= C(1)) & (x[n] < right) & (y[n] >= C(1)) & (y[n] < bottom));
    if (outside) return false;
#pragma omp simd
    for (int n = 0; n < count; ++n) {
      const C left = std::floor(x[n]), top = std::floor(y[n]), t = x[n] - left, u = y[n] - top;
      offset[n] = (static_cast<int64_t>(top) - 1) * row_stride + static_cast<int64_t>(left) - 1;
      across[n][0] = cubic_far(C(1) + t), across[n][1] = cubic_near(t);
      across[n][2] = cubic_near(C(1) - t), across[n][3] = cubic_far(C(2) - t);
      down[n][0] = cubic_far(C(1) + u), down[n][1] = cubic_near(u);
      down[n][2] = cubic_near(C(1) - u), down[n][3] = cubic_far(C(2) - u);
    }
    return true;
  }

  MSR_HOST_DEVICE void forward(const T* plane, int64_t row_stride, T* to, int count) const {
    for (int n = 0; n < count; ++n) {
      const T* from = plane + offset[n];
      C column[4] = {};
      for (int k = 0; k < 4; ++k, from += row_stride)
        for (int q = 0; q < 4; ++q) column[q] += down[n][k] * load(from[q]);
      C sum = C(0);
      for (int q = 0; q < 4; ++q) sum += across[n][q] * column[q];
      to[n] = store<T>(sum);
    }
  }
};

template <int K, typename T>
void forward_planes(const T* x, const Strides& xs, const Flow<compute_t<T>>& flow, T* out, const Sizes& s) {
  using Block = BlockTaps<K, T>;
  const int64_t blocks = (s.pixels() + Block::kPixels - 1) / Block::kPixels;
  parallel(s.batch * blocks, s.channels * K * K * Block::kPixels, [&](int64_t first, int64_t last) {
    Block block;
    CubicTaps<T> cubic;
    with_simd([&] {
      for (int64_t n = first; n < last; ++n) {
        const int64_t b = n / blocks, begin = n % blocks * Block::kPixels;
        const int count = static_cast<int>(std::min<int64_t>(Block::kPixels, s.pixels() - begin));
        if (K == 4 && cubic.fill(flow, s, xs.h, b, begin, count)) {
          for (int64_t c = 0; c < s.channels; ++c)
            cubic.forward(x + b * xs.b + c * xs.c, xs.h, out + (b * s.channels + c) * s.pixels() + begin, count);
          continue;
        }
        block.fill(flow, s, xs.h, b, begin, count);
        for (int64_t c = 0; c < s.channels; ++c) {
          const T* plane = x + b * xs.b + c * xs.c;
          T* to = out + (b * s.channels + c) * s.pixels() + begin;
          if (block.edge)
            forward_plane<K, true>(block, plane, to, count);
          else
            forward_plane<K, false>(block, plane, to, count);
        }
      }
    });
  });
}

template <int K, typename T>
void backward_flow_planes(const T* grad, const T* x, const Strides& xs, const Flow<compute_t<T>>& flow,
                          compute_t<T>* grad_flow, const Sizes& s) {
  using C = compute_t<T>;
  using Block = BlockTaps<K, T>;
  constexpr int kPixels = Block::kPixels;
  const int64_t blocks = (s.pixels() + kPixels - 1) / kPixels;
  parallel(s.batch * blocks, 2 * s.channels * K * K * kPixels, [&](int64_t first, int64_t last) {
    Block block;
    C along_x[K * K][kPixels], along_y[K * K][kPixels], sum_x[kPixels], sum_y[kPixels];
    with_simd([&] {
      for (int64_t m = first; m < last; ++m) {
        const int64_t b = m / blocks, begin = m % blocks * kPixels;
        const int count = static_cast<int>(std::min<int64_t>(kPixels, s.pixels() - begin));
        block.each(flow, s, xs.h, b, begin, count, [&](int n, const Taps<K, C>& across, const Taps<K, C>& down) {
          for (int k = 0; k < K * K; ++k) {
            along_x[k][n] = down.weight[k / K] * across.slope[k % K];
            along_y[k][n] = down.slope[k / K] * across.weight[k % K];
          }
          sum_x[n] = sum_y[n] = C(0);
        });
        for (int64_t c = 0; c < s.channels; ++c) {
          const T* plane = x + b * xs.b + c * xs.c;
          const T* from = grad + (b * s.channels + c) * s.pixels() + begin;
          const auto add = [&](auto edge) {
#pragma omp simd
            for (int n = 0; n < count; ++n) {
              C to_x = C(0), to_y = C(0);
              for (int k = 0; k < K * K; ++k) {
                const C value = block.template read<decltype(edge)::value>(plane, k, n);
                to_x += along_x[k][n] * value;
                to_y += along_y[k][n] * value;
              }
              sum_x[n] += load(from[n]) * to_x;
              sum_y[n] += load(from[n]) * to_y;
            }
          };
          block.edge ? add(std::true_type{}) : add(std::false_type{});
        }
        C* to = grad_flow + b * 2 * s.pixels() + begin;
        std::copy(sum_x, sum_x + count, to);
        std::copy(sum_y, sum_y + count, to + s.pixels());
      }
    });
  });
}

template <int K, typename T>
void backward_x_planes(const T* grad, const Flow<compute_t<T>>& flow, compute_t<T>* grad_x, const Sizes& s) {
  using C = compute_t<T>;
  using Block = BlockTaps<K, T>;
  each_share(s, 1, [&](int64_t b, int64_t first, int64_t last) {
    Block block;
    with_simd([&] {
      for (int64_t begin = 0; begin < s.pixels(); begin += Block::kPixels) {
        const int count = static_cast<int>(std::min<int64_t>(Block::kPixels, s.pixels() - begin));
        block.fill(flow, s, s.width, b, begin, count);
        for (int64_t c = first; c < last; ++c) {
          C* plane = grad_x + (b * s.channels + c) * s.height * s.width;
          const T* from = grad + (b * s.channels + c) * s.pixels() + begin;
          for (int n = 0; n < count; ++n) {
            const C value = load(from[n]);
            for (int k = 0; k < K * K; ++k)
              if (block.inside[k][n]) plane[block.offset[k][n]] += block.weight[k][n] * value;
          }
        }
      }
    });
  });
}

}  // namespace
}  // namespace msr::flow_warp

namespace msr {
Tensor flow_warp_cpu(const Tensor& input, const Tensor& input_flow, const std::string& interpolation,
                     const std::string& padding_mode) {
  using namespace flow_warp;
  const Sizes s = sizes(input, input_flow, is_border(padding_mode));
  const MemoryFormat format = memory_format(input);
  Tensor out = empty(input, {s.batch, s.channels, s.out_height, s.out_width}, input.scalar_type(), format);
  if (out.numel() == 0) return out;
  if (input.numel() == 0) return torch::stable::zero_(out);
  const Tensor x = with_unit_stride(input);
  const Tensor flow = to_type(input_flow, compute_type(x.scalar_type()));
  const Strides xs = strides(x);
  dispatch_floating(x.scalar_type(), "flow_warp", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = static_cast<const T*>(x.data_ptr());
    T* to = static_cast<T*>(out.data_ptr());
    const auto f = flow_of<compute_t<T>>(flow);
    with_taps(taps_of(interpolation), [&](auto k) {
      constexpr int K = decltype(k)::value;
      if (format == MemoryFormat::ChannelsLast)
        forward_channels_last<K>(from, xs, f, to, s);
      else
        forward_planes<K>(from, xs, f, to, s);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> flow_warp_backward_cpu(const Tensor& input_grad, const Tensor& input, const Tensor& input_flow,
                                                  const std::string& interpolation, const std::string& padding_mode,
                                                  bool needs_x, bool needs_flow) {
  using namespace flow_warp;
  const Sizes s = sizes(input, input_flow, is_border(padding_mode));
  check_grad(input_grad, input, s);
  const MemoryFormat format = memory_format(input);
  const ScalarType type = input.scalar_type(), compute = compute_type(type);
  // Sums over many pixels and channels: collected in the compute type, rounded once at the end.
  Tensor grad_x = needs_x ? empty(input, {s.batch, s.channels, s.height, s.width}, compute, format)
                          : empty(input, {0}, compute);
  Tensor grad_flow = needs_flow ? empty(input, {s.batch, 2, s.out_height, s.out_width}, compute) : empty(input, {0}, compute);
  if (needs_x) torch::stable::zero_(grad_x);
  const bool nothing = input.numel() == 0 || input_flow.numel() == 0;
  if (needs_flow && nothing) torch::stable::zero_(grad_flow);
  if (!nothing) {
    const Tensor x = with_unit_stride(input);
    const Tensor flow = to_type(input_flow, compute);
    const Tensor grad = as_contiguous(to_type(input_grad, type), format);
    const Strides xs = strides(x);
    dispatch_floating(type, "flow_warp", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using C = compute_t<T>;
      const T* g = static_cast<const T*>(grad.data_ptr());
      const T* from = static_cast<const T*>(x.data_ptr());
      C* to_x = static_cast<C*>(grad_x.data_ptr());
      C* to_flow = static_cast<C*>(grad_flow.data_ptr());
      const auto f = flow_of<C>(flow);
      with_taps(taps_of(interpolation), [&](auto k) {
        constexpr int K = decltype(k)::value;
        if (format == MemoryFormat::ChannelsLast) {
          if (needs_x) backward_x_channels_last<K>(g, f, to_x, s);
          if (needs_flow) backward_flow_channels_last<K>(g, from, xs, f, to_flow, s);
        } else {
          if (needs_x) backward_x_planes<K>(g, f, to_x, s);
          if (needs_flow) backward_flow_planes<K>(g, from, xs, f, to_flow, s);
        }
      });
    });
  }
  return {to_type(grad_x, type), to_type(grad_flow, input_flow.scalar_type())};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) {
  m.impl("flow_warp", MSR_BOX(&msr::flow_warp_cpu));
  m.impl("flow_warp_backward", MSR_BOX(&msr::flow_warp_backward_cpu));
}

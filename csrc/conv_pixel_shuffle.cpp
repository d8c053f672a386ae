// conv_pixel_shuffle on the CPU: a 3x3 convolution of packed rows that stores each block of results where it belongs.
#include "conv_pixel_shuffle.h"

#include "row_convolution.h"

namespace msr {
namespace {

// Group sizes that hold whole rows of the factor x factor squares, so that these are stored as runs of pixels.
template <typename A>
RowKernel<A> choose_kernel(int64_t factor, int64_t filters) {
  if (factor == 3)
    return best_row_kernel<A>({row_kernel<A, 1, 12>(), row_kernel<A, 1, 9>(), row_kernel<A, 1, 6>(),
                               row_kernel<A, 1, 3>()}, filters);
  return best_row_kernel<A>({row_kernel<A, 1, 12>(), row_kernel<A, 1, 8>(), row_kernel<A, 1, 4>()}, filters);
}

// The weights as the kernel reads them: [group][kernel row][channel][tap x][g].
template <typename T>
std::vector<compute_t<T>> pack_weight(const Tensor& weight, const ConvPixelShuffle& sizes, int64_t group,
                                      int64_t groups) {
  std::vector<compute_t<T>> packed(groups * 3 * sizes.channels * 3 * group, compute_t<T>(0));
  const T* data = static_cast<const T*>(weight.const_data_ptr());
  const Strides from = strides(weight);
  for (int64_t n = 0; n < sizes.filters; ++n) {
    for (int64_t c = 0; c < sizes.channels; ++c) {
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t row = (n / group * 3 + tap / 3) * sizes.channels + c;
        packed[(row * 3 + tap % 3) * group + n % group] =
            load(data[n * from.b + c * from.c + tap / 3 * from.h + tap % 3 * from.w]);
      }
    }
  }
  return packed;
}

template <typename T>
void conv_pixel_shuffle_kernel(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                               Activation activation, const std::optional<Tensor>& prelu_weight, Tensor& output,
                               const ConvPixelShuffle& sizes) {
  using A = compute_t<T>;
  const int64_t r = sizes.factor;
  const RowKernel<A> kernel = choose_kernel<A>(r, sizes.filters);
  const int64_t group = kernel.group, groups = (sizes.filters + group - 1) / group;
  const int64_t plane = sizes.channels * 3 * group;
  const std::vector<A> weights = pack_weight<T>(weight, sizes, group, groups);
  const std::vector<A> biases = channel_values<T>(bias, 0, sizes.filters, groups * group);
  const std::vector<A> slopes = channel_values<T>(prelu_weight, kLeakySlope, sizes.filters, groups * group);
  const T* in = static_cast<const T*>(x.const_data_ptr());
  T* out = static_cast<T*>(output.mutable_data_ptr());

  // Work items are rows, strip by strip, so that a thread walks down and packs each row once.
  const int64_t strip = strip_width(sizes.width, sizes.channels * 3 * sizeof(A), kernel.block);
  const int64_t strips = (sizes.width + strip - 1) / strip, rows = sizes.height;
  parallel(sizes.batch * strips * rows, sizes.channels * sizes.filters * 9 * strip, [&](int64_t begin, int64_t end) {
    PackedRows<T, A> packed(sizes.channels, 3, strip + 2);
    A stage[12 * kLargestRowBlock];
    RowTask<A> task{};
    task.activation = activation;
    task.taps_x = 3;
    task.first_phases = 1;
    task.channels = sizes.channels;
    task.pitch = packed.pitch();
    int64_t current = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / rows / strips, left = item / rows % strips * strip, y = item % rows;
      const ImageView<const T> source = image_of(x, in, b);
      const ImageView<T> target = image_of(output, out, b);
      if (item / rows != current) packed.start(left - 1);
      current = item / rows;
      int64_t kernel_rows[3];
      task.taps_y = 0;
      for (int64_t ky = 0; ky < 3; ++ky) {
        if (y + ky - 1 < 0 || y + ky - 1 >= rows) continue;
        task.row[task.taps_y] = packed.row(source, y + ky - 1);
        kernel_rows[task.taps_y++] = ky;
      }
      for (int64_t at = 0; at < std::min(strip, sizes.width - left); at += kernel.block) {
        for (int64_t g = 0; g < groups; ++g) {
          for (int i = 0; i < task.taps_y; ++i) task.weight[i] = weights.data() + (g * 3 + kernel_rows[i]) * plane;
          task.bias = biases.data() + g * group;
          task.slope = slopes.data() + g * group;
          kernel.run(task, at, stage);
          for (int64_t n = g * group; n < std::min((g + 1) * group, sizes.filters); n += r) {
            T* line = target.data + sizes.channel(n) * target.channel_stride;
            line += (y * r + sizes.row(n)) * target.row_stride;
            write_columns(r, line, target.column_stride, (left + at) * r, target.width,
                          stage + n % group * kernel.block, kernel.block, kernel.block);
          }
        }
      }
    }
  });
}

Tensor conv_pixel_shuffle_cpu(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t factor,
                              std::optional<std::string> activation, const std::optional<Tensor>& prelu_weight) {
  const ConvPixelShuffle sizes = conv_pixel_shuffle_sizes(x, weight, bias, factor, prelu_weight);
  Tensor output = empty(x, {sizes.batch, sizes.out_channels(), sizes.height * factor, sizes.width * factor},
                        x.scalar_type(), output_format(x, sizes.out_channels()));
  if (output.numel() == 0) return output;
  dispatch_floating(x.scalar_type(), "conv_pixel_shuffle", [&](auto tag) {
    using T = typename decltype(tag)::type;
    conv_pixel_shuffle_kernel<T>(x, weight, bias, parse_activation(activation), prelu_weight, output, sizes);
  });
  return output;
}

}  // namespace
}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) { m.impl("conv_pixel_shuffle", MSR_BOX(&msr::conv_pixel_shuffle_cpu)); }

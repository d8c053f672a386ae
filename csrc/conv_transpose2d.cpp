// conv_transpose2d on the CPU: every phase of the stride is an ordinary convolution, for a block of steps at once.
#include "conv_transpose2d.h"

#include "row_convolution.h"

namespace msr {
namespace {

template <typename A>
RowKernel<A> choose_kernel(int64_t stride, int64_t out_channels) {
  switch (stride) {
    case 2:
      return best_row_kernel<A>({row_kernel<A, 2, 6>(), row_kernel<A, 2, 4>(), row_kernel<A, 2, 3>(),
                                 row_kernel<A, 2, 1>()}, out_channels);
    case 3:
      return best_row_kernel<A>({row_kernel<A, 3, 4>(), row_kernel<A, 3, 3>(), row_kernel<A, 3, 1>()}, out_channels);
    default:
      return best_row_kernel<A>({row_kernel<A, 4, 3>(), row_kernel<A, 4, 2>(), row_kernel<A, 4, 1>()}, out_channels);
  }
}

// The weights as the kernel reads them: [group][kernel row][channel][tap x][phase x][g]. Packed columns run to the
// right and taps to the left, so tap x counts backwards; zeros where a phase lacks the tap are never read.
template <typename T>
std::vector<compute_t<T>> pack_weight(const Tensor& weight, const ConvTranspose2d& sizes, int64_t group,
                                      int64_t groups) {
  using A = compute_t<T>;
  const int64_t taps = sizes.x.most_taps(), stride = sizes.x.stride;
  std::vector<A> packed(groups * sizes.y.kernel * sizes.channels * taps * stride * group, A(0));
  const T* data = static_cast<const T*>(weight.const_data_ptr());
  const Strides from = strides(weight);
  for (int64_t c = 0; c < sizes.channels; ++c) {
    for (int64_t o = 0; o < sizes.out_channels; ++o) {
      for (int64_t ky = 0; ky < sizes.y.kernel; ++ky) {
        A* to = packed.data() + ((o / group * sizes.y.kernel + ky) * sizes.channels + c) * taps * stride * group;
        for (int64_t kx = 0; kx < sizes.x.kernel; ++kx) {
          const int64_t tap = taps - 1 - kx / stride;
          to[(tap * stride + kx % stride) * group + o % group] =
              load(data[c * from.b + o * from.c + ky * from.h + kx * from.w]);
        }
      }
    }
  }
  return packed;
}

template <typename T>
void conv_transpose2d_kernel(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                             Activation activation, const std::optional<Tensor>& prelu_weight, Tensor& output,
                             const ConvTranspose2d& sizes) {
  using A = compute_t<T>;
  const TransposedAxis &ay = sizes.y, &ax = sizes.x;
  const RowKernel<A> kernel = choose_kernel<A>(ax.stride, sizes.out_channels);
  const int64_t group = kernel.group, groups = (sizes.out_channels + group - 1) / group;
  const int64_t taps = ax.most_taps(), plane = sizes.channels * taps * ax.stride * group;
  const std::vector<A> weights = pack_weight<T>(weight, sizes, group, groups);
  const std::vector<A> biases = channel_values<T>(bias, 0, sizes.out_channels, groups * group);
  const std::vector<A> slopes = channel_values<T>(prelu_weight, kLeakySlope, sizes.out_channels, groups * group);
  const T* in = static_cast<const T*>(input.const_data_ptr());
  T* out = static_cast<T*>(output.mutable_data_ptr());

  // Work items are rows of input steps, strip by strip, so that a thread walks down and packs each row once.
  const int64_t first_y = ay.step(0), rows = ay.step(ay.out_size - 1) + 1 - first_y;
  const int64_t first_x = ax.step(0), columns = ax.step(ax.out_size - 1) + 1 - first_x;
  const int64_t strip = strip_width(columns, sizes.channels * ay.most_taps() * sizeof(A), kernel.block);
  const int64_t strips = (columns + strip - 1) / strip;
  const int64_t operations = sizes.channels * sizes.out_channels * ay.kernel * ax.kernel * strip;
  parallel(sizes.batch * strips * rows, operations, [&](int64_t begin, int64_t end) {
    PackedRows<T, A> packed(sizes.channels, ay.most_taps(), strip + taps - 1);
    A stage[12 * kLargestRowBlock];
    RowTask<A> task{};
    task.activation = activation;
    task.taps_x = int(taps);
    task.first_phases = int(ax.phases(taps - 1));
    task.channels = sizes.channels;
    task.pitch = packed.pitch();
    int64_t current = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / rows / strips, left = first_x + item / rows % strips * strip;
      const int64_t step_y = first_y + item % rows, width = std::min(strip, first_x + columns - left);
      const ImageView<const T> source = image_of(input, in, b);
      const ImageView<T> target = image_of(output, out, b);
      if (item / rows != current) packed.start(left - (taps - 1));
      current = item / rows;
      for (int64_t phase = 0; phase < ay.stride; ++phase) {
        const int64_t y = ay.out(step_y, phase);
        if (y < 0 || y >= ay.out_size) continue;
        int64_t kernel_rows[9];
        task.taps_y = 0;
        for (int64_t t = 0; t < ay.taps(phase); ++t) {
          if (step_y - t < 0 || step_y - t >= ay.size) continue;
          task.row[task.taps_y] = packed.row(source, step_y - t);
          kernel_rows[task.taps_y++] = phase + t * ay.stride;
        }
        for (int64_t x = 0; x < width; x += kernel.block) {
          // All channels of a block together: its pixels stay in the first-level cache, only weights stream.
          for (int64_t g = 0; g < groups; ++g) {
            for (int i = 0; i < task.taps_y; ++i) {
              task.weight[i] = weights.data() + (g * ay.kernel + kernel_rows[i]) * plane;
            }
            task.bias = biases.data() + g * group;
            task.slope = slopes.data() + g * group;
            kernel.run(task, x, stage);
            const int64_t column = ax.out(left + x, 0);
            for (int64_t o = g * group; o < std::min((g + 1) * group, sizes.out_channels); ++o) {
              T* line = target.data + o * target.channel_stride + y * target.row_stride;
              write_columns(ax.stride, line, target.column_stride, column, target.width,
                            stage + o % group * kernel.block, group * kernel.block, kernel.block);
            }
          }
        }
      }
    }
  });
}

Tensor conv_transpose2d_cpu(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                            std::vector<int64_t> stride, std::vector<int64_t> padding,
                            std::vector<int64_t> output_padding, int64_t groups, std::vector<int64_t> dilation,
                            std::optional<std::string> activation, const std::optional<Tensor>& prelu_weight) {
  const ConvTranspose2d sizes = conv_transpose2d_sizes(input, weight, bias, stride, padding, output_padding, groups,
                                                       dilation, prelu_weight);
  Tensor output = empty(input, {sizes.batch, sizes.out_channels, sizes.y.out_size, sizes.x.out_size},
                        input.scalar_type(), output_format(input, sizes.out_channels));
  if (output.numel() == 0) return output;
  dispatch_floating(input.scalar_type(), "conv_transpose2d", [&](auto tag) {
    using T = typename decltype(tag)::type;
    conv_transpose2d_kernel<T>(input, weight, bias, parse_activation(activation), prelu_weight, output, sizes);
  });
  return output;
}

}  // namespace
}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) { m.impl("conv_transpose2d", MSR_BOX(&msr::conv_transpose2d_cpu)); }

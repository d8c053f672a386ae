// The geometry of conv_transpose2d, shared by the CPU and the CUDA kernels.
#pragma once

#include "convolution.h"

namespace msr {

// One axis of a transposed convolution. Output o, counted with its padding, is phase (o + padding) % stride of input
// step (o + padding) / stride. It sums the taps t: input step - t times kernel value phase + stride * t. Each phase is
// thus a small ordinary convolution of the input.
struct TransposedAxis {
  int64_t size, out_size, kernel, stride, padding;

  MSR_HOST_DEVICE int64_t step(int64_t out) const { return (out + padding) / stride; }
  MSR_HOST_DEVICE int64_t phase(int64_t out) const { return (out + padding) % stride; }
  MSR_HOST_DEVICE int64_t out(int64_t step, int64_t phase) const { return step * stride + phase - padding; }
  // Taps of the first phase, which has most.
  MSR_HOST_DEVICE int64_t most_taps() const { return (kernel + stride - 1) / stride; }
  MSR_HOST_DEVICE int64_t taps(int64_t phase) const {
    return phase < kernel ? (kernel - phase + stride - 1) / stride : 0;
  }
  // Phases that tap t reaches: all, but fewer at the last tap.
  MSR_HOST_DEVICE int64_t phases(int64_t tap) const {
    return kernel - stride * tap < stride ? kernel - stride * tap : stride;
  }
};

struct ConvTranspose2d {
  int64_t batch, channels, out_channels;
  TransposedAxis y, x;
};

// Reads the sizes off the arguments, and raises where the kernels do not serve them.
inline ConvTranspose2d conv_transpose2d_sizes(const Tensor& input, const Tensor& weight,
                                              const std::optional<Tensor>& bias, const std::vector<int64_t>& stride,
                                              const std::vector<int64_t>& padding,
                                              const std::vector<int64_t>& output_padding, int64_t groups,
                                              const std::vector<int64_t>& dilation,
                                              const std::optional<Tensor>& prelu_weight) {
  MSR_CHECK(input.dim() == 4 && weight.dim() == 4 && input.size(1) == weight.size(0) &&
                input.scalar_type() == weight.scalar_type(),
            "conv_transpose2d got input ", describe(input), " and weight ", describe(weight));
  MSR_CHECK(stride.size() == 2 && padding.size() == 2 && output_padding.size() == 2 && dilation.size() == 2,
            "conv_transpose2d takes its sizes for two axes");
  MSR_CHECK(groups == 1 && dilation[0] == 1 && dilation[1] == 1, "conv_transpose2d kernels: groups 1 and dilation 1");
  const auto axis = [&](int i) {
    const int64_t size = input.size(2 + i), kernel = weight.size(2 + i);
    const int64_t out = (size - 1) * stride[i] - 2 * padding[i] + kernel + output_padding[i];
    MSR_CHECK(kernel >= 1 && kernel <= 9 && stride[i] >= 2 && stride[i] <= 4,
              "conv_transpose2d kernels: sizes 1 to 9 and strides 2 to 4, got ", kernel, " and ", stride[i]);
    MSR_CHECK(padding[i] >= 0 && output_padding[i] >= 0 && size > 0 && out > 0,
              "conv_transpose2d got sizes without pixels: input ", describe(input));
    return TransposedAxis{size, out, kernel, stride[i], padding[i]};
  };
  const ConvTranspose2d sizes{input.size(0), input.size(1), weight.size(1), axis(0), axis(1)};
  check_vector("bias", bias, sizes.out_channels, false, input);
  check_vector("prelu_weight", prelu_weight, sizes.out_channels, true, input);
  return sizes;
}

}  // namespace msr

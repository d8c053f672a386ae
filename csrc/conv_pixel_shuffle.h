// The geometry of conv_pixel_shuffle, shared by the CPU and the CUDA kernels.
#pragma once

#include "convolution.h"

namespace msr {

// `filters` = out_channels * factor^2. Filter n makes channel n / factor^2 at row (n / factor) % factor and column
// n % factor of the square of factor x factor pixels that each input pixel becomes.
struct ConvPixelShuffle {
  int64_t batch, channels, height, width, filters, factor;

  MSR_HOST_DEVICE int64_t out_channels() const { return filters / (factor * factor); }
  MSR_HOST_DEVICE int64_t channel(int64_t filter) const { return filter / (factor * factor); }
  MSR_HOST_DEVICE int64_t row(int64_t filter) const { return filter / factor % factor; }
  MSR_HOST_DEVICE int64_t column(int64_t filter) const { return filter % factor; }
};

// Reads the sizes off the arguments, and raises where the kernels do not serve them.
inline ConvPixelShuffle conv_pixel_shuffle_sizes(const Tensor& x, const Tensor& weight,
                                                 const std::optional<Tensor>& bias, int64_t factor,
                                                 const std::optional<Tensor>& prelu_weight) {
  MSR_CHECK(x.dim() == 4 && weight.dim() == 4 && weight.size(1) == x.size(1) && weight.size(2) == 3 &&
                weight.size(3) == 3 && x.scalar_type() == weight.scalar_type(),
            "conv_pixel_shuffle got x ", describe(x), " and weight ", describe(weight));
  MSR_CHECK(factor >= 1 && factor <= 4 && weight.size(0) % (factor * factor) == 0,
            "conv_pixel_shuffle kernels: upscale_factor 1 to 4, its square divides the weight's channels; got ", factor,
            " and weight ", describe(weight));
  check_vector("bias", bias, weight.size(0), false, x);
  check_vector("prelu_weight", prelu_weight, weight.size(0), true, x);
  return {x.size(0), x.size(1), x.size(2), x.size(3), weight.size(0), factor};
}

}  // namespace msr

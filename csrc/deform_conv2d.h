// The geometry and the per-sample maths of deform_conv2d, shared by the CPU and the CUDA kernels.
#pragma once

#include <cmath>
#include <cstdint>

#include <optional>

#include "common.h"

namespace msr::deform {

// Everything about one call but the data. `taps` = kernel_h * kernel_w.
struct Geometry {
  int64_t batch, channels, height, width;
  int64_t out_channels, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
  int64_t groups, offset_groups, taps;

  MSR_HOST_DEVICE int64_t pixels() const { return out_height * out_width; }
  MSR_HOST_DEVICE int64_t group_channels() const { return channels / groups; }
  MSR_HOST_DEVICE int64_t offset_group_channels() const { return channels / offset_groups; }
};

// Reads the geometry off the arguments and checks once more, for callers other than msr.ops, that they fit together.
inline Geometry geometry_of(const Tensor& input, const Tensor& offset, const Tensor& weight,
                            const std::optional<Tensor>& bias, const std::optional<Tensor>& mask,
                            const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                            const std::vector<int64_t>& dilation) {
  MSR_CHECK(input.dim() == 4 && offset.dim() == 4 && weight.dim() == 4 && (!mask || mask->dim() == 4),
            "deform_conv2d needs tensors of 4 dimensions");
  MSR_CHECK(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2, "deform_conv2d needs pairs of settings");
  Geometry g{};
  g.batch = input.size(0), g.channels = input.size(1), g.height = input.size(2), g.width = input.size(3);
  g.out_channels = weight.size(0), g.out_height = offset.size(2), g.out_width = offset.size(3);
  g.kernel_h = weight.size(2), g.kernel_w = weight.size(3), g.taps = g.kernel_h * g.kernel_w;
  g.stride_h = stride[0], g.stride_w = stride[1], g.padding_h = padding[0], g.padding_w = padding[1];
  g.dilation_h = dilation[0], g.dilation_w = dilation[1];
  bool fits = weight.numel() > 0 && g.channels > 0;
  g.groups = fits ? g.channels / weight.size(1) : 0;
  g.offset_groups = fits ? offset.size(1) / (2 * g.taps) : 0;
  fits = fits && g.groups > 0 && g.channels == g.groups * weight.size(1) && g.out_channels % g.groups == 0;
  fits = fits && g.offset_groups > 0 && offset.size(1) == 2 * g.taps * g.offset_groups;
  fits = fits && g.channels % g.offset_groups == 0 && offset.size(0) == g.batch;
  fits = fits && (!bias || bias->numel() == g.out_channels);
  fits = fits && (!mask || (mask->size(0) == g.batch && mask->size(1) == g.taps * g.offset_groups &&
                            mask->size(2) == g.out_height && mask->size(3) == g.out_width));
  fits = fits && weight.scalar_type() == input.scalar_type();
  MSR_CHECK(fits && (g.height + 4) * (g.width + 3) <= INT32_MAX / 4, "deform_conv2d: shapes do not fit: input ",
            describe(input), ", offset ", describe(offset), ", weight ", describe(weight));
  return g;
}

// Splits a position along one axis into the pixel at or before it and the fraction beyond. Everything from one pixel
// outside on, NaN too, moves to -2 or to `size`, where both pixels lie outside: two pixels of zeros around the image are
// all that is ever read, the conversion to an integer is defined and the image never takes part.
template <typename T>
MSR_HOST_DEVICE int locate(T position, T size, T& fraction) {
  position = position > T(-2) ? position : T(-2);
  position = position < size ? position : size;
  const T pixel = std::floor(position);
  fraction = position - pixel;
  return static_cast<int>(pixel);
}

}  // namespace msr::deform

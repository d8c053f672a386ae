// flow_guided_deform_conv2d: how the raw output of the convolution that predicts the alignment becomes offsets and masks,
// shared by CPU and CUDA.
#pragma once

#include "deform_conv2d.h"
#include "exponential.h"

namespace msr::deform {

// The channels of head and flows beside the geometry of the convolution.
struct Guide {
  int64_t flows, groups_a_flow;
  double max_residue;
};

// Reads the geometry off the arguments and checks once more, for callers other than msr.ops, that they fit together.
inline Geometry guided_geometry(const Tensor& x, const Tensor& head, const Tensor& flows, const Tensor& weight,
                                const std::optional<Tensor>& bias, const std::vector<int64_t>& padding,
                                const std::vector<int64_t>& dilation, double max_residue, Guide& guide) {
  MSR_CHECK(head.dim() == 4 && flows.dim() == 4 && weight.dim() == 4 && weight.size(2) * weight.size(3) > 0,
            "flow_guided_deform_conv2d needs tensors of 4 dimensions");
  const int64_t taps = weight.size(2) * weight.size(3), groups = head.size(1) / (3 * taps);
  // The first two thirds of head have the shape of an offset.
  const Tensor offset = torch::stable::narrow(const_cast<Tensor&>(head), 1, 0, 2 * groups * taps);
  const Geometry geometry = geometry_of(x, offset, weight, bias, std::nullopt, {1, 1}, padding, dilation);
  guide = {flows.size(1) / 2, 0, max_residue};
  const bool fits = guide.flows > 0 && flows.size(1) == 2 * guide.flows && groups % guide.flows == 0 &&
                    head.size(1) == 3 * groups * taps && flows.size(0) == geometry.batch &&
                    flows.size(2) == geometry.out_height && flows.size(3) == geometry.out_width;
  MSR_CHECK(fits, "flow_guided_deform_conv2d: shapes do not fit: head ", describe(head), ", flows ", describe(flows));
  guide.groups_a_flow = groups / guide.flows;
  return geometry;
}

// By powers of two, as 1 / ln 2 = 1.442695. NaN stays NaN: its sample is then one that lies nowhere.
template <typename C>
MSR_HOST_DEVICE C hyperbolic_tangent(C x) {
  const C value = C(1) - C(2) / (power_of_two(x * C(2.8853900817779268)) + C(1));
  return x == x ? value : x;
}
template <typename C>
MSR_HOST_DEVICE C sigmoid(C x) {
  const C value = C(1) / (C(1) + power_of_two(x * C(-1.4426950408889634)));
  return x == x ? value : x;
}

}  // namespace msr::deform

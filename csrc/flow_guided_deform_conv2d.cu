// flow_guided_deform_conv2d on CUDA: each block computes the offsets and masks of its samples from head and flows.
#include "flow_guided_deform_conv2d.h"

#include "deform_conv2d_kernel.h"

namespace msr::deform {
namespace {

// H is the dtype of head; flows are of the compute type.
template <typename C, typename H>
struct Guided {
  const H* head;
  Strides head_strides;
  const C* flows;
  Strides flow_strides;
  int64_t groups_a_flow;
  C max_residue;

  __device__ __forceinline__ Move<C> at(const Geometry& g, int64_t b, int64_t offset_group, int64_t tap,
                                        int64_t pixel) const {
    const int64_t row = pixel / g.out_width, column = pixel % g.out_width;
    const int64_t number = offset_group * g.taps + tap, flow = offset_group / groups_a_flow;
    const H* raw = head + b * head_strides.b + row * head_strides.h + column * head_strides.w;
    const C* motion = flows + b * flow_strides.b + 2 * flow * flow_strides.c + row * flow_strides.h +
                      column * flow_strides.w;
    const int64_t strengths = 2 * g.offset_groups * g.taps;
    return {max_residue * hyperbolic_tangent(static_cast<C>(raw[2 * number * head_strides.c])) + motion[flow_strides.c],
            max_residue * hyperbolic_tangent(static_cast<C>(raw[(2 * number + 1) * head_strides.c])) + motion[0],
            sigmoid(static_cast<C>(raw[(strengths + number) * head_strides.c]))};
  }
};

}  // namespace
}  // namespace msr::deform

namespace msr {

Tensor flow_guided_deform_conv2d_cuda(const Tensor& x, const Tensor& given_head, const Tensor& given_flows,
                                      const Tensor& weight, const std::optional<Tensor>& bias, double max_residue,
                                      const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  using namespace deform;
  Guide guide{};
  const Geometry g = guided_geometry(x, given_head, given_flows, weight, bias, padding, dilation, max_residue, guide);
  const ScalarType type = compute_type(x.scalar_type());
  // head is read as it is where it has the dtype of x; the flows are small.
  const bool own = given_head.scalar_type() == x.scalar_type();
  const Tensor head = own ? given_head : to_type(given_head, type), flows = to_type(given_flows, type);
  const auto moves_of = [&](auto tag, auto head_tag) {
    using C = compute_t<typename decltype(tag)::type>;
    using H = typename decltype(head_tag)::type;
    return Guided<C, H>{static_cast<const H*>(head.data_ptr()),  strides(head),
                        static_cast<const C*>(flows.data_ptr()), strides(flows),
                        guide.groups_a_flow,                     static_cast<C>(guide.max_residue)};
  };
  const char* op = "flow_guided_deform_conv2d";
  if (own) return forward(op, g, x, weight, bias, [&](auto tag) { return moves_of(tag, tag); });
  return forward(op, g, x, weight, bias, [&](auto tag) {
    return moves_of(tag, Tag<compute_t<typename decltype(tag)::type>>{});
  });
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CUDA, m) {
  m.impl("flow_guided_deform_conv2d", MSR_BOX(&msr::flow_guided_deform_conv2d_cuda));
}

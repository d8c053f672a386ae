// flow_guided_deform_conv2d on the CPU: the offsets and masks of a tile are computed into a buffer that stays in the cache.
#include "flow_guided_deform_conv2d.h"

#include "deform_conv2d_forward.h"

namespace msr::deform {
namespace {

// As TileReader, with offsets and masks made from head and flows.
template <typename T>
struct GuidedReader {
  const Plan& plan;
  const Guide& guide;
  const Pixels &head, &flows;
  Buffer<T> memory;
  Buffer<int> index;
  T *base_y, *base_x, *rows, *motion;
  Samples<T> samples;

  GuidedReader(const Plan& plan, const Guide& guide, const Pixels& head, const Pixels& flows)
      : plan(plan), guide(guide), head(head), flows(flows) {
    const int64_t n = plan.tile;
    memory = buffer<T>(n * (7 + 3 * plan.offset_groups * plan.taps + 2 * guide.flows));
    index = buffer<int>(n);
    T* at = memory.get();
    base_y = at, base_x = at + n;
    samples = {index.get(), at + 2 * n, at + 3 * n, at + 4 * n, at + 5 * n, at + 6 * n};
    rows = at + 7 * n;
    motion = rows + 3 * plan.offset_groups * plan.taps * n;
  }

  Tile<T> read(int64_t batch, Span pixels) {
    const int64_t begin = pixels.begin, count = pixels.end - begin, n = plan.tile;
    plan.bases(begin, count, base_y, base_x);
    load_rows(head, batch, begin, count, rows, n);
    load_rows(flows, batch, begin, count, motion, n);
    const int64_t number = plan.offset_groups * plan.taps;
    T* masks = rows + 2 * number * n;
    const T reach = static_cast<T>(guide.max_residue);
    with_simd([&] {
      for (int64_t i = 0; i < number; ++i) {
        const int64_t flow = i / plan.taps / guide.groups_a_flow;
        T *down = rows + 2 * i * n, *right = down + n, *mask = masks + i * n;
        const T *flow_x = motion + 2 * flow * n, *flow_y = flow_x + n;
#pragma GCC ivdep
        for (int64_t p = 0; p < count; ++p) {
          down[p] = reach * hyperbolic_tangent(down[p]) + flow_y[p];
          right[p] = reach * hyperbolic_tangent(right[p]) + flow_x[p];
          mask[p] = sigmoid(mask[p]);
        }
      }
    });
    return {base_y, base_x, rows, masks, n, n, count};
  }
};

}  // namespace
}  // namespace msr::deform

namespace msr {

Tensor flow_guided_deform_conv2d_cpu(const Tensor& x, const Tensor& head, const Tensor& flows, const Tensor& weight,
                                     const std::optional<Tensor>& bias, double max_residue,
                                     const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  using namespace deform;
  Guide guide{};
  const Geometry geometry = guided_geometry(x, head, flows, weight, bias, padding, dilation, max_residue, guide);
  Tensor out = empty(x, {geometry.batch, geometry.out_channels, geometry.out_height, geometry.out_width},
                     x.scalar_type(), memory_format(x));
  if (out.numel() == 0) return out;
  const Pixels heads(head), motions(flows);
  if (x.scalar_type() == ScalarType::Double)
    forward<double>(geometry, x, weight, bias, out,
                    [&](const Plan& plan) { return GuidedReader<double>(plan, guide, heads, motions); });
  else
    forward<float>(geometry, x, weight, bias, out,
                   [&](const Plan& plan) { return GuidedReader<float>(plan, guide, heads, motions); });
  return out;
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) {
  m.impl("flow_guided_deform_conv2d", MSR_BOX(&msr::flow_guided_deform_conv2d_cpu));
}

// kernel_merge on the CPU: rows of the result on torch's threads.
#include "kernel_merge.h"

namespace msr {

std::tuple<Tensor, Tensor> kernel_merge_cpu(const Tensor& given_frames, const Tensor& given_positions,
                                            const Tensor& given_covariance, const Tensor& given_weights, double scale,
                                            const std::string& mosaic, int64_t radius) {
  using namespace kernel_merge;
  const Geometry g =
      geometry_of(given_frames, given_positions, given_covariance, given_weights, scale, mosaic, radius);
  const ScalarType type = compute_type(given_frames.scalar_type());
  const auto prepared = [&](const Tensor& x) { return torch::stable::contiguous(to_type(x, type)); };
  const Tensor frames = torch::stable::contiguous(given_frames), positions = prepared(given_positions);
  const Tensor covariance = prepared(given_covariance), weights = prepared(given_weights);
  const std::vector<int64_t> shape{g.batch, g.out_channels, g.out_height, g.out_width};
  Tensor image = empty(frames, shape, frames.scalar_type()), weight = empty(frames, shape, type);
  if (image.numel() == 0) return {image, weight};
  dispatch_floating(frames.scalar_type(), "kernel_merge", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const T* pixels = static_cast<const T*>(frames.data_ptr());
    const C *where = static_cast<const C*>(positions.data_ptr()), *spread = static_cast<const C*>(covariance.data_ptr());
    const C* trust = static_cast<const C*>(weights.data_ptr());
    T* out = static_cast<T*>(image.data_ptr());
    C* sums = static_cast<C*>(weight.data_ptr());
    parallel(g.batch * g.out_height, g.out_width * g.count * 200, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t b = n / g.out_height, i = n % g.out_height;
        with_simd([&] {
          for (int64_t j = 0; j < g.out_width; ++j) {
            C total[kMaxChannels] = {}, mass[kMaxChannels] = {};
            merge_pixel<T>(g, pixels, where, spread, trust, b, i, j, total, mass);
            for (int64_t c = 0; c < g.out_channels; ++c) {
              const int64_t at = (b * g.out_channels + c) * g.pixels() + i * g.out_width + j;
              out[at] = store<T>(mass[c] > C(0) ? total[c] / mass[c] : C(0));
              sums[at] = mass[c];
            }
          }
        });
      }
    });
  });
  return {image, weight};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) {
  m.impl("kernel_merge", TORCH_BOX(&msr::kernel_merge_cpu));
}

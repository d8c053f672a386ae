// kernel_merge on CUDA: a thread for each pixel of the result.
#include "kernel_merge.h"

namespace msr::kernel_merge {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads)
    kernel_merge_kernel(Geometry g, const T* frames, const compute_t<T>* positions, const compute_t<T>* covariance,
                        const compute_t<T>* weights, T* image, compute_t<T>* weight) {
  using C = compute_t<T>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; n < g.batch * g.pixels(); n += step) {
    const int64_t b = n / g.pixels(), pixel = n % g.pixels();
    C total[kMaxChannels] = {}, mass[kMaxChannels] = {};
    merge_pixel<T>(g, frames, positions, covariance, weights, b, pixel / g.out_width, pixel % g.out_width, total, mass);
    for (int c = 0; c < kMaxChannels; ++c) {
      if (c >= g.out_channels) break;
      const int64_t at = (b * g.out_channels + c) * g.pixels() + pixel;
      image[at] = static_cast<T>(mass[c] > C(0) ? total[c] / mass[c] : C(0));
      weight[at] = mass[c];
    }
  }
}

}  // namespace
}  // namespace msr::kernel_merge

namespace msr {

std::tuple<Tensor, Tensor> kernel_merge_cuda(const Tensor& given_frames, const Tensor& given_positions,
                                             const Tensor& given_covariance, const Tensor& given_weights, double scale,
                                             const std::string& mosaic, int64_t radius) {
  using namespace kernel_merge;
  const Geometry g =
      geometry_of(given_frames, given_positions, given_covariance, given_weights, scale, mosaic, radius);
  const ScalarType type = compute_type(given_frames.scalar_type());
  const auto prepared = [&](const Tensor& x) { return as_contiguous(to_type(x, type)); };
  const Tensor frames = as_contiguous(given_frames), positions = prepared(given_positions);
  const Tensor covariance = prepared(given_covariance), weights = prepared(given_weights);
  const std::vector<int64_t> shape{g.batch, g.out_channels, g.out_height, g.out_width};
  Tensor image = empty(frames, shape, frames.scalar_type()), weight = empty(frames, shape, type);
  if (image.numel() == 0) return {image, weight};
  dispatch_floating(frames.scalar_type(), "kernel_merge", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    launch(kernel_merge_kernel<T>, blocks_for(g.batch * g.pixels()), dim3(kThreads), 0, frames, g,
           static_cast<const T*>(frames.data_ptr()), static_cast<const C*>(positions.data_ptr()),
           static_cast<const C*>(covariance.data_ptr()), static_cast<const C*>(weights.data_ptr()),
           static_cast<T*>(image.data_ptr()), static_cast<C*>(weight.data_ptr()));
  });
  return {image, weight};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CUDA, m) {
  m.impl("kernel_merge", MSR_BOX(&msr::kernel_merge_cuda));
}

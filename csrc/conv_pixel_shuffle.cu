// conv_pixel_shuffle on CUDA: a block of threads convolves a tile for a few filters and stores it shuffled.
//
// There is no backward kernel: that of the reference runs in cuDNN, which gather kernels would not beat.
#include "conv_pixel_shuffle.h"

namespace msr {
namespace {

constexpr int kTileX = 32, kTileY = 8, kPixels = 2;  // threads, and pixels (kTileX apart) that each thread computes
constexpr int kFilters = 8;                          // that each thread computes

template <typename A>
constexpr int kChunk = sizeof(A) == 8 ? 4 : 8;  // input channels in shared memory at a time

template <typename T>
__global__ void __launch_bounds__(kTileX* kTileY)
    conv_pixel_shuffle_kernel(const T* x, Strides in, const T* weight, Strides ws, Vectors<T> vectors, T* output,
                              Strides out, ConvPixelShuffle sizes, int64_t tiles_y, int64_t tiles_x, int64_t groups) {
  using A = compute_t<T>;
  constexpr int height = kTileY + 2, width = kTileX * kPixels + 2;
  MSR_SHARED(A, patch, [kChunk<A>][height][width]);
  MSR_SHARED(A, weights, [kChunk<A>][9][kFilters]);
  const int thread = int(threadIdx.y) * kTileX + int(threadIdx.x);
  const int64_t tiles = sizes.batch * groups * tiles_y * tiles_x;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t left = tile % tiles_x * (kTileX * kPixels), top = tile / tiles_x % tiles_y * kTileY;
    const int64_t first_filter = tile / tiles_x / tiles_y % groups * kFilters;
    const int64_t b = tile / tiles_x / tiles_y / groups;
    A sum[kPixels][kFilters] = {};
    for (int64_t first = 0; first < sizes.channels; first += kChunk<A>) {
      const int chunk = int(sizes.channels - first < kChunk<A> ? sizes.channels - first : kChunk<A>);
      __syncthreads();  // the previous chunk has been read
      for (int i = thread; i < chunk * height * width; i += kTileX * kTileY) {
        const int c = i / (height * width), row = i / width % height, column = i % width;
        const int64_t y = top + row - 1, column_x = left + column - 1;
        const bool inside = y >= 0 && y < sizes.height && column_x >= 0 && column_x < sizes.width;
        patch[c][row][column] = inside ? load(x[b * in.b + (first + c) * in.c + y * in.h + column_x * in.w]) : A(0);
      }
      for (int i = thread; i < chunk * 9 * kFilters; i += kTileX * kTileY) {
        const int c = i / (9 * kFilters), k = i / kFilters % 9, f = i % kFilters;
        const int64_t n = first_filter + f;
        weights[c][k][f] = n < sizes.filters
                               ? load(weight[n * ws.b + (first + c) * ws.c + k / 3 * ws.h + k % 3 * ws.w])
                               : A(0);
      }
      __syncthreads();
#pragma unroll 1
      for (int c = 0; c < chunk; ++c) {
#pragma unroll
        for (int k = 0; k < 9; ++k) {
#pragma unroll
          for (int p = 0; p < kPixels; ++p) {
            const A pixel = patch[c][threadIdx.y + k / 3][threadIdx.x + p * kTileX + k % 3];
#pragma unroll
            for (int f = 0; f < kFilters; ++f) sum[p][f] += pixel * weights[c][k][f];
          }
        }
      }
    }
    const int64_t y = top + threadIdx.y;
#pragma unroll
    for (int f = 0; f < kFilters; ++f) {
      const int64_t n = first_filter + f;
      if (n >= sizes.filters || y >= sizes.height) continue;
      const A bias = vectors.bias ? load(vectors.bias[n * vectors.bias_stride]) : A(0);
      const A slope = vectors.slope ? load(vectors.slope[n * vectors.slope_stride]) : A(kLeakySlope);
      T* line = output + b * out.b + sizes.channel(n) * out.c + (y * sizes.factor + sizes.row(n)) * out.h;
#pragma unroll
      for (int p = 0; p < kPixels; ++p) {
        const int64_t column = left + threadIdx.x + p * kTileX;
        if (column >= sizes.width) continue;
        line[(column * sizes.factor + sizes.column(n)) * out.w] =
            store<T>(activate(sum[p][f] + bias, vectors.activation, slope));
      }
    }
  }
}

Tensor conv_pixel_shuffle_cuda(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t factor,
                               std::optional<std::string> activation, const std::optional<Tensor>& prelu_weight) {
  const ConvPixelShuffle sizes = conv_pixel_shuffle_sizes(x, weight, bias, factor, prelu_weight);
  Tensor output = empty(x, {sizes.batch, sizes.out_channels(), sizes.height * factor, sizes.width * factor},
                        x.scalar_type(), output_format(x, sizes.out_channels()));
  const int64_t tiles_y = (sizes.height + kTileY - 1) / kTileY;
  const int64_t tiles_x = (sizes.width + kTileX * kPixels - 1) / (kTileX * kPixels);
  const int64_t groups = (sizes.filters + kFilters - 1) / kFilters;
  const int64_t tiles = sizes.batch * groups * tiles_y * tiles_x;
  const dim3 grid(static_cast<unsigned>(tiles < (1 << 30) ? tiles : (1 << 30)));
  dispatch_floating(x.scalar_type(), "conv_pixel_shuffle", [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(&conv_pixel_shuffle_kernel<T>, grid, dim3(kTileX, kTileY), 0, x, static_cast<const T*>(x.const_data_ptr()),
           strides(x), static_cast<const T*>(weight.const_data_ptr()), strides(weight),
           vectors_of<T>(bias, activation, prelu_weight), static_cast<T*>(output.mutable_data_ptr()), strides(output),
           sizes, tiles_y, tiles_x, groups);
  });
  return output;
}

}  // namespace
}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CUDA, m) { m.impl("conv_pixel_shuffle", MSR_BOX(&msr::conv_pixel_shuffle_cuda)); }

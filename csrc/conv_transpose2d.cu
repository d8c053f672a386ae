// conv_transpose2d on CUDA: a block of threads computes a tile of input steps, all phases of the stride at once.
//
// There is no backward kernel: that of the reference runs in cuDNN, which gather kernels would not beat.
#include "conv_transpose2d.h"

namespace msr {
namespace {

constexpr int kTileX = 32, kTileY = 8, kSteps = 2;  // threads, and steps (kTileX apart) that each thread computes
constexpr int kMostTaps = 5, kMostWeights = 81;     // kernel 9: at stride 2, and all

template <typename A>
constexpr int kChunk = sizeof(A) == 8 ? 4 : 8;  // input channels in shared memory at a time

// S: the larger of the two strides, so that the sums of all phases lie in registers.
template <typename T, int S>
__global__ void __launch_bounds__(kTileX* kTileY)
    conv_transpose2d_kernel(const T* input, Strides in, const T* weight, Strides ws, Vectors<T> vectors, T* output,
                            Strides out, ConvTranspose2d sizes, int64_t tiles_y, int64_t tiles_x) {
  using A = compute_t<T>;
  MSR_SHARED(A, patch, [kChunk<A>][kTileY + kMostTaps - 1][kTileX * kSteps + kMostTaps - 1]);
  MSR_SHARED(A, weights, [kChunk<A>][kMostWeights]);
  const int taps_y = int(sizes.y.most_taps()), taps_x = int(sizes.x.most_taps());
  const int stride_y = int(sizes.y.stride), stride_x = int(sizes.x.stride);
  const int kernel_h = int(sizes.y.kernel), kernel_w = int(sizes.x.kernel);
  const int height = kTileY + taps_y - 1, width = kTileX * kSteps + taps_x - 1;
  const int thread = int(threadIdx.y) * kTileX + int(threadIdx.x);
  const int64_t tiles = sizes.batch * sizes.out_channels * tiles_y * tiles_x;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t left = sizes.x.step(0) + tile % tiles_x * (kTileX * kSteps);
    const int64_t top = sizes.y.step(0) + tile / tiles_x % tiles_y * kTileY;
    const int64_t o = tile / tiles_x / tiles_y % sizes.out_channels;
    const int64_t b = tile / tiles_x / tiles_y / sizes.out_channels;
    A sum[kSteps][S][S] = {};
    for (int64_t first = 0; first < sizes.channels; first += kChunk<A>) {
      const int chunk = int(sizes.channels - first < kChunk<A> ? sizes.channels - first : kChunk<A>);
      __syncthreads();  // the previous chunk has been read
      for (int i = thread; i < chunk * height * width; i += kTileX * kTileY) {
        const int c = i / (height * width), row = i / width % height, column = i % width;
        const int64_t y = top + row - (taps_y - 1), x = left + column - (taps_x - 1);
        const bool inside = y >= 0 && y < sizes.y.size && x >= 0 && x < sizes.x.size;
        patch[c][row][column] =
            inside ? load(input[b * in.b + (first + c) * in.c + y * in.h + x * in.w]) : A(0);
      }
      for (int i = thread; i < chunk * kernel_h * kernel_w; i += kTileX * kTileY) {
        const int c = i / (kernel_h * kernel_w), k = i % (kernel_h * kernel_w);
        weights[c][k] =
            load(weight[(first + c) * ws.b + o * ws.c + k / kernel_w * ws.h + k % kernel_w * ws.w]);
      }
      __syncthreads();
#pragma unroll 1
      for (int c = 0; c < chunk; ++c) {
        for (int ty = 0; ty < taps_y; ++ty) {
          for (int tx = 0; tx < taps_x; ++tx) {
            A pixels[kSteps];
#pragma unroll
            for (int n = 0; n < kSteps; ++n) {
              pixels[n] = patch[c][threadIdx.y + taps_y - 1 - ty][threadIdx.x + n * kTileX + taps_x - 1 - tx];
            }
#pragma unroll
            for (int py = 0; py < S; ++py) {
              if (py >= stride_y || py + ty * stride_y >= kernel_h) continue;
#pragma unroll
              for (int px = 0; px < S; ++px) {
                if (px >= stride_x || px + tx * stride_x >= kernel_w) continue;
                const A value = weights[c][(py + ty * stride_y) * kernel_w + px + tx * stride_x];
#pragma unroll
                for (int n = 0; n < kSteps; ++n) sum[n][py][px] += pixels[n] * value;
              }
            }
          }
        }
      }
    }
    const A bias = vectors.bias ? load(vectors.bias[o * vectors.bias_stride]) : A(0);
    const A slope = vectors.slope ? load(vectors.slope[o * vectors.slope_stride]) : A(kLeakySlope);
#pragma unroll
    for (int n = 0; n < kSteps; ++n) {
#pragma unroll
      for (int py = 0; py < S; ++py) {
#pragma unroll
        for (int px = 0; px < S; ++px) {
          const int64_t y = sizes.y.out(top + threadIdx.y, py), x = sizes.x.out(left + threadIdx.x + n * kTileX, px);
          const bool inside = y >= 0 && y < sizes.y.out_size && x >= 0 && x < sizes.x.out_size;
          if (py >= stride_y || px >= stride_x || !inside) continue;
          output[b * out.b + o * out.c + y * out.h + x * out.w] =
              store<T>(activate(sum[n][py][px] + bias, vectors.activation, slope));
        }
      }
    }
  }
}

template <typename T>
void launch_conv_transpose2d(const Tensor& input, const Tensor& weight, const Vectors<T>& vectors, Tensor& output,
                             const ConvTranspose2d& sizes) {
  const int64_t steps_y = sizes.y.step(sizes.y.out_size - 1) + 1 - sizes.y.step(0);
  const int64_t steps_x = sizes.x.step(sizes.x.out_size - 1) + 1 - sizes.x.step(0);
  const int64_t tiles_y = (steps_y + kTileY - 1) / kTileY;
  const int64_t tiles_x = (steps_x + kTileX * kSteps - 1) / (kTileX * kSteps);
  const int64_t tiles = sizes.batch * sizes.out_channels * tiles_y * tiles_x;
  const dim3 grid(static_cast<unsigned>(tiles < (1 << 30) ? tiles : (1 << 30)));
  const int64_t stride = sizes.y.stride > sizes.x.stride ? sizes.y.stride : sizes.x.stride;
  auto kernel = stride == 2 ? &conv_transpose2d_kernel<T, 2>
                : stride == 3 ? &conv_transpose2d_kernel<T, 3>
                              : &conv_transpose2d_kernel<T, 4>;
  launch(kernel, grid, dim3(kTileX, kTileY), 0, input, static_cast<const T*>(input.const_data_ptr()), strides(input),
         static_cast<const T*>(weight.const_data_ptr()), strides(weight), vectors,
         static_cast<T*>(output.mutable_data_ptr()), strides(output), sizes, tiles_y, tiles_x);
}

Tensor conv_transpose2d_cuda(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                             std::vector<int64_t> stride, std::vector<int64_t> padding,
                             std::vector<int64_t> output_padding, int64_t groups, std::vector<int64_t> dilation,
                             std::optional<std::string> activation, const std::optional<Tensor>& prelu_weight) {
  const ConvTranspose2d sizes = conv_transpose2d_sizes(input, weight, bias, stride, padding, output_padding, groups,
                                                       dilation, prelu_weight);
  Tensor output = empty(input, {sizes.batch, sizes.out_channels, sizes.y.out_size, sizes.x.out_size},
                        input.scalar_type(), output_format(input, sizes.out_channels));
  dispatch_floating(input.scalar_type(), "conv_transpose2d", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Vectors<T> vectors = vectors_of<T>(bias, activation, prelu_weight);
    launch_conv_transpose2d<T>(input, weight, vectors, output, sizes);
  });
  return output;
}

}  // namespace
}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CUDA, m) { m.impl("conv_transpose2d", MSR_BOX(&msr::conv_transpose2d_cuda)); }

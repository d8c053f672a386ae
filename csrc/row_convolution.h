// Convolution over packed rows on the CPU: what conv_transpose2d.cpp and conv_pixel_shuffle.cpp have in common.
//
// Input rows are packed plane by plane, in the accumulator's type and with zero borders, so that the innermost loop has
// neither bounds nor strides nor conversions. A block of neighbouring pixels then lies along the vector, and the
// S phases x G channels that one input pixel feeds lie in registers: each pixel is loaded once for all of them.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "convolution.h"

namespace msr {

// Taps of one output row: row[i] is the packed input row that weight[i] ([channel][tap x][phase][g]) applies to.
template <typename A>
struct RowTask {
  std::array<const A*, 9> row;
  std::array<const A*, 9> weight;
  const A* bias;   // G values
  const A* slope;  // G values, read by Activation::slope alone
  Activation activation;
  int taps_y;
  int taps_x;
  int first_phases;  // the leftmost tap reaches only the first phases of the stride, the others reach all
  int64_t channels;
  int64_t pitch;
};

#define MSR_ROW_TARGET
#define MSR_ROW_NAME rows_portable
#define MSR_ROW_BYTES 16
#include "row_convolution_body.h"
#undef MSR_ROW_TARGET
#undef MSR_ROW_NAME
#undef MSR_ROW_BYTES

#if defined(__x86_64__)
#define MSR_ROW_TARGET __attribute__((target("avx2,fma")))
#define MSR_ROW_NAME rows_avx2
#define MSR_ROW_BYTES 32
#include "row_convolution_body.h"
#undef MSR_ROW_TARGET
#undef MSR_ROW_NAME
#undef MSR_ROW_BYTES

#define MSR_ROW_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define MSR_ROW_NAME rows_avx512
#define MSR_ROW_BYTES 64
#include "row_convolution_body.h"
#undef MSR_ROW_TARGET
#undef MSR_ROW_NAME
#undef MSR_ROW_BYTES
#endif

constexpr int64_t kLargestRowBlock = 32;

// The best compiled body for this machine: how many pixels it computes at once, and where it starts.
template <typename A>
struct RowKernel {
  void (*run)(const RowTask<A>& task, int64_t offset, A* stage);
  int group;
  int64_t block;
  double cost;  // of one channel and tap of a group, for each vector of pixels
};

// How many vectors of pixels `sums` sums may have each, so that all of them, the pixels and a weight lie in registers.
template <int sums>
constexpr int vectors_in(int registers) {
  return registers > 16 ? 2 : sums <= 4 ? 3 : sums <= 6 ? 2 : 1;
}

template <typename A, int S, int G>
RowKernel<A> row_kernel() {
  // A cycle has as many products as loads, of which every vector of pixels and every weight takes one; S for the loop.
  const auto of = [](auto run, int64_t bytes, int n) {
    return RowKernel<A>{run, G, n * bytes / int64_t(sizeof(A)), double(std::max(S * G * n, S * G + n) + S) / n};
  };
  constexpr int few = vectors_in<S * G>(16), many = vectors_in<S * G>(32);
#if defined(__x86_64__)
  if (simd() == Simd::avx512) return of(rows_avx512<A, S, G, many>, 64, many);
  if (simd() == Simd::avx2) return of(rows_avx2<A, S, G, few>, 32, few);
#endif
#if defined(__aarch64__)
  return of(rows_portable<A, S, G, many>, 16, many);
#else
  return of(rows_portable<A, S, G, few>, 16, few);
#endif
}

// Of the compiled group sizes, the one that takes least, what is left empty of its last group included.
template <typename A>
RowKernel<A> best_row_kernel(std::initializer_list<RowKernel<A>> kernels, int64_t outputs) {
  RowKernel<A> best = *kernels.begin();
  double best_cost = 1e30;
  for (const RowKernel<A>& kernel : kernels) {
    const double cost = double((outputs + kernel.group - 1) / kernel.group) * kernel.cost;
    if (cost < best_cost) best = kernel, best_cost = cost;
  }
  return best;
}

// One image of a batch, with strides in elements: any layout.
template <typename T>
struct ImageView {
  T* data;
  int64_t channels, width;
  int64_t channel_stride, row_stride, column_stride;
};

template <typename T>
ImageView<T> image_of(const Tensor& tensor, T* data, int64_t b) {
  return {data + b * tensor.stride(0), tensor.size(1), tensor.size(3), tensor.stride(1), tensor.stride(2),
          tensor.stride(3)};
}

// `count` values of a vector with one value or one for each channel, padded by zeros to `padded`.
template <typename T>
std::vector<compute_t<T>> channel_values(const std::optional<Tensor>& vector, double otherwise, int64_t count,
                                         int64_t padded) {
  std::vector<compute_t<T>> values(padded, compute_t<T>(0));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t place = !vector || vector->size(0) == 1 ? 0 : i * vector->stride(0);
    values[i] = vector ? load(static_cast<const T*>(vector->const_data_ptr())[place]) : compute_t<T>(otherwise);
  }
  return values;
}

// The last few rows of one strip of an image, packed; each row is packed once while the caller walks downwards.
template <typename T, typename A>
class PackedRows {
 public:
  PackedRows(int64_t channels, int64_t rows, int64_t width)
      : width_(width), pitch_((width + 15) / 16 * 16), slots_(rows, -1) {
    if (pitch_ / 16 % 2 == 0) pitch_ += 16;  // an odd number of lines: the planes then spread over all cache sets
    size_ = channels * pitch_;
    storage_.resize(rows * size_);
  }

  int64_t pitch() const { return pitch_; }

  // Starts a new strip, whose first packed column is image column `left` (it may lie outside, as zeros).
  void start(int64_t left) {
    left_ = left;
    std::fill(slots_.begin(), slots_.end(), -1);
  }

  const A* row(const ImageView<const T>& image, int64_t y) {
    const int64_t slot = y % int64_t(slots_.size());
    A* packed = storage_.data() + slot * size_;
    if (slots_[slot] != y) {
      slots_[slot] = y;
      pack(image, y, packed);
    }
    return packed;
  }

 private:
  void pack(const ImageView<const T>& image, int64_t y, A* packed) const {
    const int64_t begin = std::min(std::max<int64_t>(-left_, 0), width_);
    const int64_t end = std::max(std::min(image.width - left_, width_), begin);
    const T* source = image.data + y * image.row_stride + left_ * image.column_stride;
    for (int64_t c = 0; c < image.channels; ++c) {
      std::fill(packed + c * pitch_, packed + c * pitch_ + begin, A(0));
      std::fill(packed + c * pitch_ + end, packed + (c + 1) * pitch_, A(0));
    }
    if (image.column_stride == 1) {
      for (int64_t c = 0; c < image.channels; ++c) {
        const T* plane = source + c * image.channel_stride;
        for (int64_t x = begin; x < end; ++x) packed[c * pitch_ + x] = load(plane[x]);
      }
    } else {
      // A line of every plane at a time, out of as many pixels as stay in the cache meanwhile.
      for (int64_t first = begin; first < end; first += 16) {
        const int64_t last = std::min(first + 16, end);
        for (int64_t c = 0; c < image.channels; ++c) {
          const T* channel = source + c * image.channel_stride;
          for (int64_t x = first; x < last; ++x) packed[c * pitch_ + x] = load(channel[x * image.column_stride]);
        }
      }
    }
  }

  int64_t width_, pitch_, size_ = 0, left_ = 0;
  std::vector<int64_t> slots_;
  std::vector<A> storage_;
};

// Columns in a strip: as many as keep the packed rows inside the second-level cache, a multiple of the block.
inline int64_t strip_width(int64_t columns, int64_t bytes_per_column, int64_t block) {
  const int64_t fitting = std::max<int64_t>(512 * 1024 / std::max<int64_t>(bytes_per_column, 1), 128);
  const int64_t strips = (columns + fitting - 1) / fitting;
  return ((columns + strips - 1) / strips + block - 1) / block * block;
}

template <int S, typename T, typename A>
void interleave(T* out, const A* stage, int64_t phase_stride, int64_t count) {
  for (int64_t j = 0; j < count; ++j) {
    for (int s = 0; s < S; ++s) out[j * S + s] = store<T>(stage[s * phase_stride + j]);
  }
}

// Writes the phases of a block of computed pixels as one run of columns, from column `first`, cut to [0, width).
template <typename T, typename A>
void write_columns(int64_t phases, T* out, int64_t column_stride, int64_t first, int64_t width, const A* stage,
                   int64_t phase_stride, int64_t block) {
  if (column_stride == 1 && first >= 0 && first + phases * block <= width) {
    if (phases == 1) return interleave<1>(out + first, stage, phase_stride, block);
    if (phases == 2) return interleave<2>(out + first, stage, phase_stride, block);
    if (phases == 3) return interleave<3>(out + first, stage, phase_stride, block);
    if (phases == 4) return interleave<4>(out + first, stage, phase_stride, block);
  }
  for (int64_t s = 0; s < phases; ++s) {
    for (int64_t j = 0; j < block; ++j) {
      const int64_t x = first + j * phases + s;
      if (x >= 0 && x < width) out[x * column_stride] = store<T>(stage[s * phase_stride + j]);
    }
  }
}

}  // namespace msr

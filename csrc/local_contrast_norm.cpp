// local_contrast_norm on the CPU: row by row, so that all between the picture and the result lies in a few rows of sums.
#include "common.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace msr::local_contrast_norm {
namespace {

// A row of a picture, or of its planes one after the other: `runs` of `width` pixels, which `step` numbers lie apart.
struct Layout {
  int64_t runs, width, step;
  int64_t numbers() const { return width * step; }
  int64_t row() const { return runs * numbers(); }
};

// The rows that a window of 2 radius + 1 needs, each in the place of the one that no window needs any longer.
template <typename C>
class Rows {
 public:
  Rows(int64_t radius, int64_t size)
      : radius_(radius),
        size_(size),
        data_(static_cast<size_t>((2 * radius + 2) * size), C(0)),
        window_(static_cast<size_t>(2 * radius + 1)) {}

  C* operator[](int64_t y) { return data_.data() + (1 + y % (2 * radius_ + 1)) * size_; }

  // Those of the window around y; outside of the picture, of `height` rows, one of zeros.
  const C* const* around(int64_t y, int64_t height) {
    for (int64_t k = -radius_; k <= radius_; ++k)
      window_[k + radius_] = y + k < 0 || y + k >= height ? data_.data() : (*this)[y + k];
    return window_.data();
  }

 private:
  int64_t radius_, size_;
  std::vector<C> data_;
  std::vector<const C*> window_;
};

// The sum of what stands at `i` in each row of a window; kWindow rows, or if that is 0 as many as `window` says.
template <int64_t kWindow, typename C>
MSR_HOST_DEVICE C sum_at(const C* const* rows, int64_t window, int64_t i) {
  C sum = rows[0][i];
  if constexpr (kWindow > 0) {
    for (int64_t k = 1; k < kWindow; ++k) sum += rows[k][i];
  } else {
    for (int64_t k = 1; k < window; ++k) sum += rows[k][i];
  }
  return sum;
}

// The mean square over channels of each pixel, and a pixel's channels multiplied by one number; kChannels 0: not known.
template <int64_t kChannels, typename C>
void power_of_pixels(const C* row, const Layout& layout, C* power) {
  const int64_t channels = kChannels ? kChannels : layout.step * layout.runs;
  const C share = C(1) / static_cast<C>(channels);
  if (layout.runs == 1) {
    for (int64_t x = 0; x < layout.width; ++x) {
      const C* pixel = row + x * channels;
      C sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < channels; ++c) sum += pixel[c] * pixel[c];
      power[x] = sum * share;
    }
    return;
  }
  std::fill(power, power + layout.width, C(0));
  for (int64_t c = 0; c < channels; ++c) {
    const C* run = row + c * layout.width;
#pragma omp simd
    for (int64_t x = 0; x < layout.width; ++x) power[x] += run[x] * run[x] * share;
  }
}

template <int64_t kChannels, typename T, typename C>
void scale_pixels(const C* row, const C* scale, const Layout& layout, T* out, int64_t run_stride) {
  const int64_t channels = kChannels ? kChannels : layout.step * layout.runs;
  if (layout.runs == 1) {
    for (int64_t x = 0; x < layout.width; ++x)
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) out[x * channels + c] = store<T>(row[x * channels + c] * scale[x]);
    return;
  }
  for (int64_t c = 0; c < channels; ++c)
#pragma omp simd
    for (int64_t x = 0; x < layout.width; ++x) out[c * run_stride + x] = store<T>(row[c * layout.width + x] * scale[x]);
}

template <int64_t value>
using Known = std::integral_constant<int64_t, value>;

template <typename T>
struct Picture {
  const T* x;
  T* out;
  int64_t row_stride, run_stride;  // of both
};

template <int64_t kChannels, int64_t kWindow, typename T>
class Pass {
 public:
  using C = compute_t<T>;

  Pass(const Layout& layout, int64_t height, int64_t radius, double epsilon)
      : layout_(layout),
        height_(height),
        radius_(radius),
        window_(2 * radius + 1),
        epsilon_(static_cast<C>(epsilon)),
        padded_(static_cast<size_t>(layout.numbers() + 2 * radius * layout.step), C(0)),
        share_(static_cast<size_t>(layout.width)),
        wide_share_(static_cast<size_t>(layout.numbers())),
        power_(static_cast<size_t>(layout.width + 2 * radius), C(0)),
        scale_(static_cast<size_t>(layout.width)),
        shifted_(static_cast<size_t>(2 * radius + 1)),
        along_(radius, layout.row()),
        differences_(radius, layout.row()),
        power_along_(radius, layout.width) {
    for (int64_t x = 0; x < layout.width; ++x) {
      share_[x] = C(1) / static_cast<C>(pixels(x, layout.width));
      for (int64_t c = 0; c < layout.step; ++c) wide_share_[x * layout.step + c] = share_[x];
    }
  }

  // Rows begin to end of the result. Those around them, which their windows reach, are computed again by others.
  void run(const Picture<T>& picture, int64_t begin, int64_t end) {
    const int64_t first = std::max<int64_t>(begin - radius_, 0), last = std::min(end + radius_, height_);
    int64_t summed = std::max<int64_t>(first - radius_, 0), made = begin;
    for (int64_t y = first; y < last; ++y) {
      for (; summed <= std::min(y + radius_, height_ - 1); ++summed) sum_row(picture, summed);
      find_difference(picture, y);
      for (; made < end && std::min(made + radius_, height_ - 1) <= y; ++made) finish(picture, made);
    }
  }

 private:
  int64_t pixels(int64_t at, int64_t size) const {
    return std::min(at + radius_, size - 1) - std::max<int64_t>(at - radius_, 0) + 1;
  }

  // The sum over the window along the row of each of `numbers`, which `step` numbers lie apart, zeros on both sides.
  void sum_along(const C* padded, int64_t numbers, int64_t step, C* sums) {
    for (int64_t k = 0; k < window_; ++k) shifted_[k] = padded + k * step;
    const C* const* shifted = shifted_.data();
#pragma omp simd
    for (int64_t i = 0; i < numbers; ++i) sums[i] = sum_at<kWindow>(shifted, window_, i);
  }

  void sum_row(const Picture<T>& picture, int64_t y) {
    C* inner = padded_.data() + radius_ * layout_.step;
    for (int64_t run = 0; run < layout_.runs; ++run) {
      const T* x = picture.x + y * picture.row_stride + run * picture.run_stride;
      for (int64_t i = 0; i < layout_.numbers(); ++i) inner[i] = load(x[i]);
      sum_along(padded_.data(), layout_.numbers(), layout_.step, along_[y] + run * layout_.numbers());
    }
  }

  void find_difference(const Picture<T>& picture, int64_t y) {
    const C share = C(1) / static_cast<C>(pixels(y, height_));
    const C* const* rows = along_.around(y, height_);
    const C* wide = wide_share_.data();
    for (int64_t run = 0; run < layout_.runs; ++run) {
      const T* x = picture.x + y * picture.row_stride + run * picture.run_stride;
      const int64_t first = run * layout_.numbers();
      C* difference = differences_[y] + first;
#pragma omp simd
      for (int64_t i = 0; i < layout_.numbers(); ++i)
        difference[i] = load(x[i]) - sum_at<kWindow>(rows, window_, first + i) * (wide[i] * share);
    }
    power_of_pixels<kChannels>(differences_[y], layout_, power_.data() + radius_);
    sum_along(power_.data(), layout_.width, 1, power_along_[y]);
  }

  void finish(const Picture<T>& picture, int64_t y) {
    const C share = C(1) / static_cast<C>(pixels(y, height_));
    const C* const* rows = power_along_.around(y, height_);
#pragma omp simd
    for (int64_t x = 0; x < layout_.width; ++x)
      scale_[x] = C(1) / std::sqrt(sum_at<kWindow>(rows, window_, x) * (share_[x] * share) + epsilon_);
    scale_pixels<kChannels>(differences_[y], scale_.data(), layout_, picture.out + y * picture.row_stride,
                            picture.run_stride);
  }

  Layout layout_;
  int64_t height_, radius_, window_;
  C epsilon_;
  std::vector<C> padded_, share_, wide_share_, power_, scale_;
  std::vector<const C*> shifted_;
  Rows<C> along_, differences_, power_along_;
};

template <int64_t kChannels, int64_t kWindow, typename T>
void run(const T* x, T* out, int64_t batch, int64_t channels, int64_t height, int64_t width, bool channels_last,
         int64_t radius, double epsilon) {
  const Layout layout = channels_last ? Layout{1, width, channels} : Layout{channels, width, 1};
  const int64_t size = channels * height * width;
  parallel(batch * height, 20 * layout.row(), [&](int64_t begin, int64_t end) {
    Pass<kChannels, kWindow, T> pass(layout, height, radius, epsilon);
    with_simd([&] {
      for (int64_t at = begin; at < end;) {
        const int64_t b = at / height, stop = std::min(end, (b + 1) * height);
        pass.run({x + b * size, out + b * size, channels_last ? width * channels : width, height * width}, at - b * height,
                 stop - b * height);
        at = stop;
      }
    });
  });
}

}  // namespace
}  // namespace msr::local_contrast_norm

namespace msr {

Tensor local_contrast_norm_cpu(const Tensor& input, int64_t radius, double epsilon) {
  using namespace local_contrast_norm;
  MSR_CHECK(input.dim() == 4 && input.size(1) > 0 && radius >= 0 && epsilon > 0,
            "local_contrast_norm needs (B, C, H, W), a radius of 0 or more and an epsilon above 0, got ", describe(input));
  const MemoryFormat format = memory_format(input);
  const Tensor x = as_contiguous(input, format);
  const int64_t batch = input.size(0), channels = input.size(1), height = input.size(2), width = input.size(3);
  Tensor out = empty(input, {batch, channels, height, width}, input.scalar_type(), format);
  if (out.numel() == 0) return out;
  // A window wider than the picture holds all of it, however wide it is.
  const int64_t reach = std::min(radius, std::max(height, width));
  dispatch_floating(input.scalar_type(), "local_contrast_norm", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto with = [&](auto channels_known, auto window_known) {
      run<decltype(channels_known)::value, decltype(window_known)::value>(
          static_cast<const T*>(x.const_data_ptr()), static_cast<T*>(out.mutable_data_ptr()), batch, channels, height, width,
          format == MemoryFormat::ChannelsLast, reach, epsilon);
    };
    const Known<0> any;
    if (reach == 2 && channels == 12) return with(Known<12>{}, Known<5>{});  // of the models that ship
    if (reach == 2 && channels == 24) return with(Known<24>{}, Known<5>{});
    return reach == 2 ? with(any, Known<5>{}) : with(any, any);
  });
  return out;
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) { m.impl("local_contrast_norm", MSR_BOX(&msr::local_contrast_norm_cpu)); }

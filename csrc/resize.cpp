// resize on the CPU: for each row of the result the rows of the picture are mixed and the columns, first whatever leaves
// less to do for the second, so that nothing but a few rows lies between the two. What is mixed with which weights is that
// of msr/ops/resize.py.
#include "common.h"

#include <algorithm>
#include <cmath>

namespace msr::resize {
namespace {

// How the pixels of an axis are mixed: output n is the sum over k of weight[k * size + n] times pixel index[k * size + n].
template <typename C>
struct Taps {
  int64_t size, count;
  std::vector<int64_t> index;
  std::vector<C> weight;
};

double sinc(double x) { return x == 0 ? 1 : std::sin(M_PI * x) / (M_PI * x); }

double kernel_at(const std::string& kernel, double distance, double shrink) {
  const double x = std::abs(distance);
  if (kernel == "area") return std::clamp((1 + shrink) / 2 - x, 0.0, std::min(1.0, shrink));
  if (kernel == "lanczos3") return x < 3 ? sinc(x) * sinc(x / 3) : 0;
  if (x <= 1) return (1.5 * x - 2.5) * x * x + 1;
  return x <= 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// `each` is how many numbers a pixel has that lie next to each other: they are mixed alike.
template <typename C>
Taps<C> taps_of(int64_t length, int64_t size, double scale, const std::string& kernel, bool antialias, bool corner,
                int64_t each) {
  const double shrink = kernel == "area" || (antialias && scale < 1) ? scale : 1;
  const double width = (kernel == "lanczos3" ? 6 : kernel == "cubic" ? 4 : 2) / std::min(shrink, 1.0);
  const int64_t most = static_cast<int64_t>(std::ceil(width)) + 2;
  std::vector<std::vector<std::pair<int64_t, double>>> found(static_cast<size_t>(size));
  size_t count = 1;
  for (int64_t n = 0; n < size; ++n) {
    auto& own = found[static_cast<size_t>(n)];
    const double center = corner ? n / scale : (n + 0.5) / scale - 0.5;
    const int64_t first = static_cast<int64_t>(std::floor(center - width / 2));
    double sum = 0;
    for (int64_t at = first; at < first + most; ++at) {
      const double weight = kernel_at(kernel, shrink * (center - static_cast<double>(at)), shrink);
      const int64_t mirrored = (at % (2 * length) + 2 * length) % (2 * length);
      if (weight != 0) own.emplace_back(std::min(mirrored, 2 * length - 1 - mirrored), weight);
      sum += weight;
    }
    for (auto& [at, weight] : own) weight /= sum;
    count = std::max(count, own.size());
  }
  Taps<C> taps{size * each, static_cast<int64_t>(count), {}, {}};
  for (size_t k = 0; k < count; ++k)
    for (const auto& own : found)
      for (int64_t c = 0; c < each; ++c) {  // an output with fewer taps repeats one, with a weight of 0
        taps.index.push_back(own[std::min(k, own.size() - 1)].first * each + c);
        taps.weight.push_back(k < own.size() ? static_cast<C>(own[k].second) : C(0));
      }
  return taps;
}

// sums += weight * row, the first time without what sums held.
template <typename T, typename C>
void add_row(const T* row, C weight, bool first, int64_t size, C* sums) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) sums[i] = (first ? C(0) : sums[i]) + weight * load(row[i]);
}

template <typename T, typename C>
void mix_columns(const T* row, const Taps<C>& along, C* sums) {
  for (int64_t k = 0; k < along.count; ++k) {
    const int64_t* index = along.index.data() + k * along.size;
    const C* weight = along.weight.data() + k * along.size;
#pragma omp simd
    for (int64_t i = 0; i < along.size; ++i) sums[i] = (k > 0 ? sums[i] : C(0)) + weight[i] * load(row[index[i]]);
  }
}

template <typename T>
void run(const T* x, T* out, int64_t pictures, int64_t height, int64_t row, const Taps<compute_t<T>>& down,
         const Taps<compute_t<T>>& along) {
  using C = compute_t<T>;
  const bool enlarges = down.size > height;
  parallel(pictures * down.size, along.size * along.count, [&](int64_t begin, int64_t end) {
    // Of an enlargement the rows whose columns were mixed last, which the next row of the result mixes as well.
    std::vector<C> mixed(static_cast<size_t>(enlarges ? down.count * along.size : row));
    std::vector<C> sums(static_cast<size_t>(along.size));
    std::vector<int64_t> held(static_cast<size_t>(down.count), -1);
    with_simd([&] {
      for (int64_t n = begin; n < end; ++n) {
        for (int64_t k = 0; k < down.count; ++k) {
          const int64_t line = n / down.size * height + down.index[k * down.size + n % down.size];
          const C weight = down.weight[k * down.size + n % down.size];
          if (k > 0 && weight == C(0)) continue;
          if (!enlarges) {
            add_row(x + line * row, weight, k == 0, row, mixed.data());
            continue;
          }
          const int64_t place = line % down.count;  // lines that are mixed together follow each other
          C* wide = mixed.data() + place * along.size;
          if (held[place] != line) mix_columns(x + line * row, along, wide);
          held[place] = line;
          add_row(wide, weight, k == 0, along.size, sums.data());
        }
        if (!enlarges) mix_columns(mixed.data(), along, sums.data());
        T* to = out + n * along.size;
        for (int64_t i = 0; i < along.size; ++i) to[i] = store<T>(sums[i]);
      }
    });
  });
}

}  // namespace
}  // namespace msr::resize

namespace msr {

Tensor resize_cpu(const Tensor& input, const std::vector<int64_t>& size, const std::vector<double>& scales,
                  const std::string& kernel, bool antialias, const std::string& phase) {
  using namespace resize;
  MSR_CHECK(input.dim() == 4 && size.size() == 2 && scales.size() == 2 && size[0] > 0 && size[1] > 0 && scales[0] > 0 &&
                scales[1] > 0 && input.size(2) > 0 && input.size(3) > 0,
            "resize needs (B, C, H, W) and a size and scales of two, got ", describe(input));
  const MemoryFormat format = memory_format(input);
  const int64_t batch = input.size(0), channels = input.size(1), height = input.size(2), width = input.size(3);
  const Tensor x = as_contiguous(input, format);
  Tensor out = empty(input, {batch, channels, size[0], size[1]}, input.scalar_type(), format);
  if (out.numel() == 0) return out;
  const int64_t each = format == MemoryFormat::ChannelsLast ? channels : 1;
  dispatch_floating(input.scalar_type(), "resize", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const bool corner = phase == "corner";
    const Taps<C> down = taps_of<C>(height, size[0], scales[0], kernel, antialias, corner, 1);
    const Taps<C> along = taps_of<C>(width, size[1], scales[1], kernel, antialias, corner, each);
    run(static_cast<const T*>(x.data_ptr()), static_cast<T*>(out.data_ptr()), batch * channels / each, height, width * each,
        down, along);
  });
  return out;
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) {
  m.impl("resize", MSR_BOX(&msr::resize_cpu));
}

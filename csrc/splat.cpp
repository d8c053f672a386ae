// splat on the CPU. What every pixel lands on is worked out once. Then the result is made band by band, as many rows at a
// time as fit into a thread's cache, from the blocks of pixels of which some land there: no two threads write to the same
// place and pixels are added in their order, so the result is the same with any number of threads. The gradients gather.
#include "splat_pack.h"

namespace msr::splat {
namespace {

// Channels whose sums are made at once: few where each has a plane of its own, as then a band has many rows and few pixels
// are packed for two bands; where a pixel's channels lie together, whole cache lines of them.
constexpr int64_t kOfPlanes = 16, kOfPixels = 64;

// Where a pixel lands, with strengths in the weights.
template <typename C>
struct Landing {
  int64_t at;  // of the first of the four places; those outside of the image are not counted in `inside`
  C weight[4];
  int inside;  // bit k for place k

  MSR_HOST_DEVICE int64_t place(int k, int64_t width) const { return at + k % 2 + k / 2 * width; }
  MSR_HOST_DEVICE bool lands(int k) const { return inside >> k & 1; }
};

// Rows of the result that one thread makes at a time, such that their sums stay in its cache.
struct Bands {
  int64_t rows, count;

  Bands(const Sizes& s, int64_t bytes_per_row) {
    constexpr int64_t kBytes = 512 * 1024;
    const int64_t most = std::max<int64_t>(4, kBytes / std::max<int64_t>(1, bytes_per_row));
    const int64_t threads = torch::stable::get_num_threads();
    rows = std::max<int64_t>(1, std::min({most, s.height, (s.height * s.batch + threads - 1) / threads}));
    count = (s.height + rows - 1) / rows;
  }

  // The places of band n of the batch, counted in its image.
  int64_t first(int64_t n, const Sizes& s) const { return n % count * rows * s.width; }
  int64_t last(int64_t n, const Sizes& s) const { return std::min(s.pixels(), first(n, s) + rows * s.width); }
};

// Everything that does not depend on the features: landings, and for each place the largest metric and the divisor.
template <typename C>
struct Landings {
  Kept<Landing<C>> kept;
  std::vector<Landing<C>>& all = kept.values;
  std::vector<C> highest, divisor;
  int64_t blocks;                            // of an image
  std::vector<std::array<int64_t, 2>> span;  // the first and last place that any pixel of a block lands on

  Landings(const Motion<C>& motion, const Sizes& s)
      : kept(s.batch * s.pixels()), blocks((s.pixels() + kBlock - 1) / kBlock), span(s.batch * blocks) {
    const int64_t count = s.batch * s.pixels();
    parallel(s.batch * blocks, 40 * kBlock, [&](int64_t first, int64_t last) {
      with_simd([&] {
        for (int64_t block = first; block < last; ++block) {
          const int64_t b = block / blocks, begin = block % blocks * kBlock;
          int64_t lowest = s.pixels(), largest = -1;
          for (int64_t n = begin; n < std::min(begin + kBlock, s.pixels()); ++n) {
            const auto found = motion.corners(b, n, s);
            Landing<C>& landing = all[b * s.pixels() + n];
            landing.at = landing.inside = 0;
            for (int k = 0; k < 4; ++k) {
              landing.weight[k] = found.share[k];
              if (!found.inside[k]) continue;
              landing.at = found.at[k] - k % 2 - k / 2 * s.width;
              landing.inside |= 1 << k;
              lowest = std::min(lowest, found.at[k]), largest = std::max(largest, found.at[k]);
            }
          }
          span[block] = {lowest, largest};
        }
      });
    });
    if (s.mode == Mode::soft) {
      highest.assign(count, -std::numeric_limits<C>::infinity());
      scatter(s, highest.data(), [&](C& sum, C share, int64_t n) {
        const C metric = bounded_metric(motion.metric[n]);
        if (share > C(0) && metric > sum) sum = metric;
      });
    }
    if (motion.metric) {
      parallel(count, 80, [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n)
          for (int k = 0; k < 4; ++k) all[n].weight[k] *= strength_at(motion, s, n, k);
      });
    }
    if (s.divides()) {
      divisor.assign(count, C(0));
      scatter(s, divisor.data(), [](C& sum, C weight, int64_t) { sum += weight; });
    }
  }

  C strength_at(const Motion<C>& motion, const Sizes& s, int64_t n, int k) const {
    if (!motion.metric || !all[n].lands(k)) return C(1);
    const int64_t at = n / s.pixels() * s.pixels() + all[n].place(k, s.width);
    return strength(s.mode, motion.metric[n], s.mode == Mode::soft ? highest[at] : C(0));
  }

  // body(first pixel, pixels) for the blocks of image b of which something lands on the places [first, last).
  template <typename Body>
  MSR_HOST_DEVICE void each_block(const Sizes& s, int64_t b, int64_t first, int64_t last, const Body& body) const {
    for (int64_t block = 0; block < blocks; ++block) {
      const auto& [lowest, largest] = span[b * blocks + block];
      if (largest >= first && lowest < last)
        body(block * kBlock, std::min<int64_t>(kBlock, s.pixels() - block * kBlock));
    }
  }

 private:
  template <typename Add>
  void scatter(const Sizes& s, C* sums, const Add& add) {
    const Bands bands(s, 4 * s.width);
    parallel(s.batch * bands.count, 8 * bands.rows * s.width, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t b = n / bands.count, first = bands.first(n, s), last = bands.last(n, s);
        each_block(s, b, first, last, [&](int64_t pixel, int64_t count) {
          for (int64_t m = b * s.pixels() + pixel; m < b * s.pixels() + pixel + count; ++m)
            for (int k = 0; k < 4; ++k) {
              const int64_t at = all[m].place(k, s.width);
              if (all[m].lands(k) && at >= first && at < last) add(sums[b * s.pixels() + at], all[m].weight[k], m);
            }
        });
      }
    });
  }
};

template <int64_t kKnown, typename C>
MSR_HOST_DEVICE void add_weighted(C* sums, C weight, const C* values, int64_t channels) {
#pragma omp simd
  for (int64_t c = 0; c < (kKnown ? kKnown : channels); ++c) sums[c] += weight * values[c];
}

// Adds the packed values of `count` pixels to the sums of the places [first, last) that they land on. kKnown is the number
// of channels where the compiler is to know it, or 0.
template <int64_t kKnown, typename C>
MSR_HOST_DEVICE void add_block(const Landing<C>* landing, const C* values, int64_t count, int64_t first, int64_t last,
                               int64_t width, int64_t channels, C* sums) {
  for (int64_t u = 0; u < count; ++u, values += channels) {
    const Landing<C>& to = landing[u];
    C* sum = sums + (to.at - first) * channels;
    if (to.inside == 15 && to.at >= first && to.at + width + 1 < last) {
      for (int k = 0; k < 4; ++k)
        add_weighted<kKnown>(sum + (k % 2 + k / 2 * width) * channels, to.weight[k], values, channels);
    } else {
      for (int k = 0; k < 4; ++k) {
        const int64_t at = to.place(k, width);
        if (to.lands(k) && at >= first && at < last)
          add_weighted<kKnown>(sums + (at - first) * channels, to.weight[k], values, channels);
      }
    }
  }
}

template <typename C>
MSR_HOST_DEVICE void divide(C* sums, const C* divisor, int64_t count, int64_t channels) {
  for (int64_t u = 0; u < count; ++u, sums += channels) {
    const C by = divisor[u] == C(0) ? std::numeric_limits<C>::infinity() : divisor[u];  // what nothing lands on is 0
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) sums[c] /= by;
  }
}

template <typename T>
void forward(const T* x, const Landings<compute_t<T>>& landings, T* out, const Layout& layout, const Sizes& s) {
  using C = compute_t<T>;
  const int64_t channels = std::min(s.channels, layout.channel == 1 ? kOfPixels : kOfPlanes), shares = (s.channels + channels - 1) / channels;
  const Bands bands(s, s.width * channels * sizeof(C));
  torch::stable::parallel_for(0, s.batch * bands.count * shares, 1, [&](int64_t begin, int64_t end) {
    std::vector<C> block(kBlock * channels);
    Kept<C> kept(bands.rows * s.width * channels);
    std::vector<C>& sums = kept.values;
    for (int64_t n = begin; n < end; ++n) {
      const int64_t band = n / shares, b = band / bands.count, first = bands.first(band, s), last = bands.last(band, s);
      const int64_t c = n % shares * channels, own = std::min(channels, s.channels - c);
      const T* from = x + b * layout.image + c * layout.channel;
      T* to = out + b * layout.image + c * layout.channel;
      with_simd([&] {
        std::fill(sums.begin(), sums.end(), C(0));
        landings.each_block(s, b, first, last, [&](int64_t pixel, int64_t count) {
          pack(from + pixel * layout.pixel, layout, own, count, block.data());
          const Landing<C>* landing = landings.all.data() + b * s.pixels() + pixel;
          if (own == kOfPlanes)
            add_block<kOfPlanes>(landing, block.data(), count, first, last, s.width, own, sums.data());
          else if (own == kOfPixels)
            add_block<kOfPixels>(landing, block.data(), count, first, last, s.width, own, sums.data());
          else
            add_block<0>(landing, block.data(), count, first, last, s.width, own, sums.data());
        });
        for (int64_t at = first; at < last; at += kBlock) {
          const int64_t count = std::min<int64_t>(kBlock, last - at);
          C* sum = sums.data() + (at - first) * own;
          if (s.divides()) divide(sum, landings.divisor.data() + b * s.pixels() + at, count, own);
          unpack(sum, own, count, to + at * layout.pixel, layout);
        }
      });
    }
  });
}

// The gradient of the sums (that of the output by the divisor) pixel by pixel, and its product with the output: what a
// weight takes from all that lands on the same place.
template <typename T>
void gradient_of_sums(const T* grad, const compute_t<T>* out, const Layout& layout, const Landings<compute_t<T>>& landings, int64_t b,
                      const Sizes& s, compute_t<T>* outer, compute_t<T>* taken) {
  using C = compute_t<T>;
  parallel(s.pixels(), 4 * s.channels, [&](int64_t first, int64_t last) {
    std::vector<C> result(kBlock * s.channels);
    with_simd([&] {
      for (int64_t begin = first; begin < last; begin += kBlock) {
        const int64_t count = std::min<int64_t>(kBlock, last - begin), from = b * layout.image + begin * layout.pixel;
        C* to = outer + begin * s.channels;
        pack(grad + from, layout, s.channels, count, to);
        if (!s.divides()) continue;
        pack(out + from, layout, s.channels, count, result.data());
        for (int64_t u = 0; u < count; ++u) {
          const C divisor = landings.divisor[b * s.pixels() + begin + u];
          C sum = C(0);
#pragma omp simd reduction(+ : sum)
          for (int64_t c = 0; c < s.channels; ++c) {
            const C value = divisor == C(0) ? C(0) : to[u * s.channels + c] / divisor;
            to[u * s.channels + c] = value;
            sum += value * result[u * s.channels + c];
          }
          taken[begin + u] = sum;
        }
      }
    });
  });
}

template <typename T>
void backward(const T* grad, const T* x, const compute_t<T>* out, const Motion<compute_t<T>>& motion, T* grad_x,
              compute_t<T>* grad_flow, compute_t<T>* grad_metric, const Layout& layout, const Sizes& s) {
  using C = compute_t<T>;
  const Landings<C> landings(motion, s);
  std::vector<C> outer(s.pixels() * s.channels), taken(s.pixels(), C(0));
  const std::vector<C> zeros(s.channels, C(0));
  for (int64_t b = 0; b < s.batch; ++b) {
    gradient_of_sums(grad, out, layout, landings, b, s, outer.data(), taken.data());
    parallel(s.pixels(), 16 * s.channels, [&](int64_t first, int64_t last) {
      std::vector<C> block(2 * kBlock * s.channels);
      C* result = block.data() + kBlock * s.channels;
      with_simd([&] {
        for (int64_t begin = first; begin < last; begin += kBlock) {
          const int64_t count = std::min<int64_t>(kBlock, last - begin), place = b * layout.image + begin * layout.pixel;
          pack(x + place, layout, s.channels, count, block.data());
          for (int64_t u = 0; u < count; ++u) {
            const int64_t n = begin + u, in_batch = b * s.pixels() + n;
            const Landing<C>& landing = landings.all[in_batch];
            const C* rows[4];
            for (int k = 0; k < 4; ++k)
              rows[k] = landing.lands(k) ? outer.data() + landing.place(k, s.width) * s.channels : zeros.data();
            const C* values = block.data() + u * s.channels;
            C sum0 = C(0), sum1 = C(0), sum2 = C(0), sum3 = C(0);
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
            for (int64_t c = 0; c < s.channels; ++c) {
              const C value = values[c];
              sum0 += rows[0][c] * value;
              sum1 += rows[1][c] * value;
              sum2 += rows[2][c] * value;
              sum3 += rows[3][c] * value;
              result[u * s.channels + c] = landing.weight[0] * rows[0][c] + landing.weight[1] * rows[1][c] +
                                           landing.weight[2] * rows[2][c] + landing.weight[3] * rows[3][c];
            }
            const C sums[4] = {sum0, sum1, sum2, sum3};
            const auto found = motion.corners(b, n, s);
            C to_x = C(0), to_y = C(0), to_metric = C(0);
            for (int k = 0; k < 4; ++k) {
              if (!found.inside[k]) continue;
              const C of_weight = sums[k] - taken[found.at[k]], worth = landings.strength_at(motion, s, in_batch, k);
              to_x += found.slope_x[k] * worth * of_weight;
              to_y += found.slope_y[k] * worth * of_weight;
              if (motion.metric)
                to_metric += found.share[k] * strength_slope(s.mode, motion.metric[in_batch], worth) * of_weight;
            }
            grad_flow[b * 2 * s.pixels() + n] = to_x;
            grad_flow[(b * 2 + 1) * s.pixels() + n] = to_y;
            if (motion.metric) grad_metric[in_batch] = to_metric;
          }
          unpack(result, s.channels, count, grad_x + place, layout);
        }
      });
    });
  }
}

}  // namespace
}  // namespace msr::splat

namespace msr {

Tensor splat_cpu(const Tensor& input, const Tensor& input_flow, const std::optional<Tensor>& input_metric,
                 const std::string& mode, bool) {
  using namespace splat;
  const Sizes s = sizes(input, input_flow, input_metric, mode);
  const MemoryFormat format = memory_format(input);
  const ScalarType type = input.scalar_type(), compute = compute_type(type);
  Tensor out = empty(input, {s.batch, s.channels, s.height, s.width}, type, format);
  if (out.numel() == 0) return out;
  const Tensor x = as_contiguous(input, format);
  const Tensor flow = motion_tensor(input_flow, compute);
  const Tensor metric = input_metric ? motion_tensor(*input_metric, compute) : flow;
  dispatch_floating(type, "splat", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const C* of_metric = input_metric ? static_cast<const C*>(metric.data_ptr()) : nullptr;
    const Landings<C> landings(Motion<C>{static_cast<const C*>(flow.data_ptr()), of_metric}, s);
    const T* from = static_cast<const T*>(x.data_ptr());
    T* to = static_cast<T*>(out.data_ptr());
    forward(from, landings, to, layout(s, format), s);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> splat_backward_cpu(const Tensor& input_grad, const Tensor& input,
                                                      const Tensor& input_flow, const std::optional<Tensor>& input_metric,
                                                      const Tensor& input_out, const std::string& mode, bool) {
  using namespace splat;
  const Sizes s = sizes(input, input_flow, input_metric, mode);
  check_like(input_grad, "grad", s);
  check_like(input_out, "out", s);
  const MemoryFormat format = memory_format(input);
  const ScalarType type = input.scalar_type(), compute = compute_type(type);
  Tensor grad_x = empty(input, {s.batch, s.channels, s.height, s.width}, type, format);
  Tensor grad_flow = empty(input, {s.batch, 2, s.height, s.width}, compute);
  Tensor grad_metric = input_metric ? empty(input, {s.batch, 1, s.height, s.width}, compute) : empty(input, {0}, compute);
  if (input.numel() == 0) {
    torch::stable::zero_(grad_flow);
    torch::stable::zero_(grad_metric);
  } else {
    const Tensor x = as_contiguous(input, format);
    const Tensor grad = as_contiguous(to_type(input_grad, type), format);
    const Tensor out = as_contiguous(to_type(input_out, compute), format);
    const Tensor flow = motion_tensor(input_flow, compute);
    const Tensor metric = input_metric ? motion_tensor(*input_metric, compute) : flow;
    dispatch_floating(type, "splat", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using C = compute_t<T>;
      const C* of_metric = input_metric ? static_cast<const C*>(metric.data_ptr()) : nullptr;
      backward(static_cast<const T*>(grad.data_ptr()), static_cast<const T*>(x.data_ptr()),
               static_cast<const C*>(out.data_ptr()), Motion<C>{static_cast<const C*>(flow.data_ptr()), of_metric},
               static_cast<T*>(grad_x.data_ptr()), static_cast<C*>(grad_flow.data_ptr()),
               static_cast<C*>(grad_metric.data_ptr()), layout(s, format), s);
    });
  }
  const ScalarType metric_type = input_metric ? input_metric->scalar_type() : input_flow.scalar_type();
  return {to_type(grad_x, type), to_type(grad_flow, input_flow.scalar_type()), to_type(grad_metric, metric_type)};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) {
  m.impl("splat", MSR_BOX(&msr::splat_cpu));
  m.impl("splat_backward", MSR_BOX(&msr::splat_backward_cpu));
}

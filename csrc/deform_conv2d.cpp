// deform_conv2d on the CPU: the backward pass, and how torch's tensors reach both.
#include "deform_conv2d_forward.h"

namespace msr::deform {
namespace {

// Turns pixels into contiguous planes of T, unless they are such. The memory is kept where it is not too much for that.
template <typename T, int NUMBER>
Buffer<T> turn_into_planes(Pixels& x) {
  if (x.pixel == 1 && x.holds<T>()) return nullptr;
  const int64_t batch = x.tensor.size(0), channels = x.tensor.size(1), step = 128;
  const int64_t pixels = x.tensor.size(2) * x.tensor.size(3), steps = (pixels + step - 1) / step;
  Buffer<T> fresh;
  T* planes = nullptr;
  if (x.tensor.numel() * static_cast<int64_t>(sizeof(T)) <= int64_t{64} << 20)
    planes = kept<T, NUMBER>(x.tensor.numel());
  else
    planes = (fresh = buffer<T>(x.tensor.numel())).get();
  parallel(batch * steps, step * channels, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / steps, begin = i % steps * step;
      load_rows(x, b, begin, std::min(step, pixels - begin), planes + b * channels * pixels + begin, pixels);
    }
  });
  x.data = planes, x.type = sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
  x.batch = channels * pixels, x.channel = pixels, x.pixel = 1;
  return fresh;
}

// Writes rows of `row` elements to channels first, first + 1, .. of a contiguous tensor, converting them.
template <typename T>
void store_rows(const T* from, int64_t row, int64_t rows, int64_t count, const Tensor& to, int64_t first, int64_t pixels,
                int64_t begin) {
  dispatch_floating(to.scalar_type(), "deform_conv2d", [&](auto tag) {
    using S = typename decltype(tag)::type;
    S* out = static_cast<S*>(to.data_ptr()) + first * pixels + begin;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t p = 0; p < count; ++p) out[r * pixels + p] = store<S>(from[r * row + p]);
  });
}

// The gradient of the output as rows of pixels, [batch * pixels][groups][out_padded], zeros where it is padded and in the
// rows after the last, which the tiles may touch.
template <typename T>
Buffer<T> gradient_rows(const Plan& plan, const Pixels& grad) {
  const int64_t row = plan.groups * plan.out_padded, size = plan.out_channels / plan.groups, step = 128;
  auto rows = buffer<T>((plan.batch * plan.pixels() + plan.tile) * row);
  std::fill_n(rows.get() + plan.batch * plan.pixels() * row, plan.tile * row, T(0));
  const int64_t steps = (plan.pixels() + step - 1) / step;
  parallel(plan.batch * steps, step * row, [&](int64_t first, int64_t last) {
    const auto planes = buffer<T>(plan.out_channels * step);
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / steps, begin = i % steps * step, count = std::min(step, plan.pixels() - begin);
      T* out = rows.get() + (b * plan.pixels() + begin) * row;
      if (grad.channel == 1 && grad.holds<T>() && plan.out_channels == row) {
        const T* from = static_cast<const T*>(grad.data) + b * grad.batch + begin * grad.pixel;
        for (int64_t p = 0; p < count; ++p) std::copy_n(from + p * grad.pixel, row, out + p * row);
        continue;
      }
      load_rows(grad, b, begin, count, planes.get(), step);
      if (size < plan.out_padded) std::fill_n(out, count * row, T(0));
      for (int64_t g = 0; g < plan.groups; ++g)
        kernels<T>().transpose(planes.get() + g * size * step, step, size, count, out + g * plan.out_padded, row);
    }
  });
  return rows;
}

// The inverse of quad_planes.
template <typename T>
void from_quad_planes(const Plan& plan, const T* planes, const Tensor& out) {
  const Strides stride = strides(out);
  dispatch_floating(out.scalar_type(), "deform_conv2d", [&](auto tag) {
    using S = typename decltype(tag)::type;
    S* data = static_cast<S*>(out.data_ptr());
    parallel(plan.batch * plan.height, plan.quads * plan.row, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / plan.height, y = i % plan.height;
        for (int64_t quad = 0; quad < plan.quads; ++quad) {
          int64_t valid = 0;
          while (valid < 4 && plan.channel_of(quad, valid) >= 0) ++valid;
          const T* from = planes + (b * plan.quads + quad) * plan.plane + (y + 2) * plan.row + 8;
          S* to = data + b * stride.b + plan.channel_of(quad, 0) * stride.c + y * stride.h;
          if (stride.c == 1)
            for (int64_t x = 0; x < plan.width; ++x)
              for (int64_t j = 0; j < valid; ++j) to[x * stride.w + j] = store<S>(from[4 * x + j]);
          else
            for (int64_t j = 0; j < valid; ++j)
              for (int64_t x = 0; x < plan.width; ++x) to[x * stride.w + j * stride.c] = store<S>(from[4 * x + j]);
        }
      }
    });
  });
}

// Every image and offset group is worked through by one thread, so the gradients of the input need no atomic additions.
template <typename T>
void backward(const Geometry& geometry, const Pixels& grad, const Tensor& input, const Pixels& offset,
              const Pixels* mask, const Tensor& weight, const Tensor& grad_input, const Tensor& grad_offset,
              const Tensor& grad_weight, const Tensor& grad_bias, const Tensor& grad_mask) {
  const Kernels<T> kernel = kernels<T>();
  const Plan plan(geometry, kernel.lanes);
  const int64_t row = plan.groups * plan.out_padded, groups = plan.offset_groups;
  T* planes = kept<T>(plan.batch * plan.quads * plan.plane + 4);
  quad_planes<T>(plan, input, planes);
  const auto rows = gradient_rows<T>(plan, grad);
  const auto grad_planes = buffer<T>(plan.batch * plan.quads * plan.plane + 4);
  const std::vector<T> all = as_vector<T>(weight);
  std::vector<Vector<T>> packed(static_cast<size_t>(groups));
  std::vector<int64_t> starts{0};  // where an offset group's weight gradients lie
  for (int64_t g = 0; g < groups; ++g) {
    int64_t elements = 0;
    for (int64_t part = 0; part < plan.groups; ++part) {
      const Span quads = plan.shared_quads(part, g);
      WeightIndex index(plan, part, quads);
      if (index.inner.empty()) continue;
      elements += static_cast<int64_t>(index.inner.size()) * plan.out_padded;
      index.inner.resize(static_cast<size_t>(round_up(static_cast<int64_t>(index.inner.size()), kernel.lanes)), -1);
      pack_panels(all.data(), index.outer, index.inner, kernel.lanes * kernel.panel, packed[static_cast<size_t>(g)]);
    }
    starts.push_back(starts.back() + elements);
  }
  // Few offset groups leave threads idle: then the batch is split, too, and each part adds up weights of its own.
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t parts = groups >= threads ? 1 : std::min(plan.batch, threads);
  Vector<T> sums(static_cast<size_t>(parts * starts.back()), T(0));
  torch::stable::parallel_for(0, parts * groups, 1, [&](int64_t first, int64_t last) {
    TileReader<T> reader(plan, offset, mask);
    const auto columns = buffer<T>((plan.group_quads * plan.taps * 4 + 3) * plan.tile);
    const auto wanted = buffer<T>(plan.tile * plan.wanted_row), moves = buffer<T>(3 * plan.taps * plan.tile);
    for (int64_t task = first; task < last; ++task) {
      const int64_t g = task % groups, part = task / groups;
      for (int64_t b = part * plan.batch / parts; b < (part + 1) * plan.batch / parts; ++b) {
        const int64_t plane = (b * plan.quads + g * plan.group_quads) * plan.plane;
        std::fill_n(grad_planes.get() + plane, plan.group_quads * plan.plane, T(0));
        for (int64_t i = 0; i < plan.tiles(); ++i) {
          const Span pixels = plan.pixels_of(i);
          const int64_t count = pixels.end - pixels.begin;
          const Gradients<T> gradients{rows.get() + (b * plan.pixels() + pixels.begin) * row, row,
                                       grad_planes.get() + plane, moves.get(), moves.get() + 2 * plan.taps * plan.tile,
                                       sums.data() + part * starts.back() + starts[static_cast<size_t>(g)]};
          kernel.backward(plan, reader.read(b, pixels), g, planes + plane, packed[static_cast<size_t>(g)].data(),
                          reader.ones, reader.samples, columns.get(), wanted.get(), gradients);
          const int64_t number = (b * groups + g) * plan.taps;
          store_rows(gradients.offsets, plan.tile, 2 * plan.taps, count, grad_offset, 2 * number, plan.pixels(),
                     pixels.begin);
          if (mask) store_rows(gradients.masks, plan.tile, plan.taps, count, grad_mask, number, plan.pixels(), pixels.begin);
        }
      }
    }
  });
  from_quad_planes<T>(plan, grad_planes.get(), grad_input);
  std::vector<T> weights(all.size(), T(0)), bias(static_cast<size_t>(plan.out_channels));
  for (int64_t part = 0; part < parts; ++part) {
    const T* from = sums.data() + part * starts.back();
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t group = 0; group < plan.groups; ++group) {
        const WeightIndex index(plan, group, plan.shared_quads(group, g));
        for (const int64_t inner : index.inner)
          for (const int64_t outer : index.outer) {
            if (inner >= 0 && outer >= 0) weights[static_cast<size_t>(inner + outer)] += *from;
            ++from;
          }
      }
  }
  std::vector<double> totals(static_cast<size_t>(row), 0.0);
  for (int64_t p = 0; p < plan.batch * plan.pixels(); ++p)
    for (int64_t c = 0; c < row; ++c) totals[static_cast<size_t>(c)] += static_cast<double>(rows[p * row + c]);
  const int64_t size = plan.out_channels / plan.groups;
  for (int64_t c = 0; c < plan.out_channels; ++c)
    bias[static_cast<size_t>(c)] = static_cast<T>(totals[static_cast<size_t>(c / size * plan.out_padded + c % size)]);
  store_rows(weights.data(), 0, 1, static_cast<int64_t>(weights.size()), grad_weight, 0, 0, 0);
  store_rows(bias.data(), 0, 1, plan.out_channels, grad_bias, 0, 0, 0);
}

}  // namespace
}  // namespace msr::deform

namespace msr {

Tensor deform_conv2d_cpu(const Tensor& input, const Tensor& offset, const Tensor& weight,
                         const std::optional<Tensor>& bias, const std::optional<Tensor>& mask,
                         const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                         const std::vector<int64_t>& dilation) {
  using namespace deform;
  const Geometry geometry = geometry_of(input, offset, weight, bias, mask, stride, padding, dilation);
  Tensor out = empty(input, {geometry.batch, geometry.out_channels, geometry.out_height, geometry.out_width},
                     input.scalar_type(), memory_format(input));
  if (out.numel() == 0) return out;
  const Pixels offsets(offset);
  std::optional<Pixels> masks;
  if (mask) masks.emplace(*mask);
  const Pixels* given = masks ? &*masks : nullptr;
  if (input.scalar_type() == ScalarType::Double)
    forward<double>(geometry, input, weight, bias, out,
                    [&](const Plan& plan) { return TileReader<double>(plan, offsets, given); });
  else
    forward<float>(geometry, input, weight, bias, out,
                   [&](const Plan& plan) { return TileReader<float>(plan, offsets, given); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward_cpu(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
    const std::vector<int64_t>& dilation) {
  using namespace deform;
  const Geometry geometry = geometry_of(input, offset, weight, std::nullopt, mask, stride, padding, dilation);
  const auto like = [](const Tensor& x, ScalarType type) {
    return empty(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, type);
  };
  Tensor grad_input = empty(input, {input.size(0), input.size(1), input.size(2), input.size(3)}, input.scalar_type(),
                            memory_format(input));
  Tensor grad_offset = like(offset, offset.scalar_type()), grad_weight = like(weight, weight.scalar_type());
  Tensor grad_bias = empty(weight, {weight.size(0)}, weight.scalar_type());
  Tensor grad_mask = mask ? like(*mask, mask->scalar_type()) : empty(offset, {0}, offset.scalar_type());
  if (grad.numel() == 0) {
    for (Tensor* each : {&grad_input, &grad_offset, &grad_weight, &grad_bias, &grad_mask}) torch::stable::zero_(*each);
    return {grad_input, grad_offset, grad_weight, grad_bias, grad_mask};
  }
  const ScalarType type = compute_type(input.scalar_type());
  const Pixels gradients(grad);
  Pixels offsets(offset);
  std::optional<Pixels> masks;
  if (mask) masks.emplace(*mask);
  const auto run = [&](auto tag) {
    using T = typename decltype(tag)::type;
    // Each offset group reads a part of every tile: converted or turned once here rather than for each of them.
    const auto memory = turn_into_planes<T, 1>(offsets), more = masks ? turn_into_planes<T, 2>(*masks) : nullptr;
    backward<T>(geometry, gradients, input, offsets, masks ? &*masks : nullptr, weight, grad_input, grad_offset, grad_weight,
                grad_bias, grad_mask);
  };
  if (type == ScalarType::Double)
    run(Tag<double>{});
  else
    run(Tag<float>{});
  return {grad_input, grad_offset, grad_weight, grad_bias, grad_mask};
}

}  // namespace msr

STABLE_TORCH_LIBRARY_IMPL(msr, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&msr::deform_conv2d_cpu));
  m.impl("deform_conv2d_backward", TORCH_BOX(&msr::deform_conv2d_backward_cpu));
}

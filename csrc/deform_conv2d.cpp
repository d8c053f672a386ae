// deform_conv2d on the CPU: the backward pass, and how torch's tensors reach both.
#include "deform_conv2d_forward.h"

namespace msr::deform {
namespace {

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

// Where a kernel may write values of T right away.
template <typename T>
T* direct(const Tensor& to) {
  const bool same = to.scalar_type() == (sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float);
  return same ? static_cast<T*>(to.data_ptr()) : nullptr;
}

// Adds up the gradients of a tile's pixels: that of the bias.
template <typename T>
void add_rows(const T* rows, int64_t distance, int64_t count, int64_t row, double* totals) {
  with_simd([=] {
    for (int64_t p = 0; p < count; ++p)
      for (int64_t c = 0; c < row; ++c) totals[c] += static_cast<double>(rows[p * distance + c]);
  });
}

// The gradient of the output of a tile as rows of pixels, [pixel][groups][out_padded]: read where it lies if it is such
// and as many pixels as the products may touch follow, else copied to `memory`, with zeros where it is padded.
template <typename T>
struct GradientReader {
  const Plan& plan;
  const Pixels& grad;
  Buffer<T> planes, rows;

  GradientReader(const Plan& plan, const Pixels& grad)
      : plan(plan),
        grad(grad),
        planes(buffer<T>(plan.out_channels * plan.tile)),
        rows(buffer<T>(plan.groups * plan.out_padded * plan.tile)) {}

  // Returns the first row and the distance to the next.
  std::pair<const T*, int64_t> read(int64_t batch, Span pixels) {
    const int64_t row = plan.groups * plan.out_padded, size = plan.out_channels / plan.groups;
    const int64_t begin = pixels.begin, count = pixels.end - begin;
    const T* from = static_cast<const T*>(grad.data) + batch * grad.batch + begin * grad.pixel;
    if (grad.channel == 1 && grad.holds<T>() && plan.out_channels == row && begin + plan.tile <= plan.pixels())
      return {from, grad.pixel};
    int64_t stride = grad.channel;
    if (grad.pixel != 1 || !grad.holds<T>()) {
      load_rows(grad, batch, begin, count, planes.get(), plan.tile);
      from = planes.get(), stride = plan.tile;
    }
    const int64_t kept = size < plan.out_padded ? 0 : count;
    std::fill_n(rows.get() + kept * row, (plan.tile - kept) * row, T(0));
    for (int64_t g = 0; g < plan.groups; ++g)
      kernels<T>().transpose(from + g * size * stride, stride, size, count, rows.get() + g * plan.out_padded, row);
    return {rows.get(), row};
  }
};

// The inverse of quad_planes for one image.
template <typename T>
void from_quad_planes(const Plan& plan, const T* planes, int64_t b, Span quads, const Tensor& out) {
  const Strides stride = strides(out);
  dispatch_floating(out.scalar_type(), "deform_conv2d", [&](auto tag) {
    using S = typename decltype(tag)::type;
    for (int64_t y = 0; y < plan.height; ++y)
      for (int64_t quad = quads.begin; quad < quads.end; ++quad) {
        int64_t valid = 0;
        while (valid < 4 && plan.channel_of(quad, valid) >= 0) ++valid;
        const T* from = planes + (quad - quads.begin) * plan.plane + (y + 2) * plan.row + 8;
        S* to = static_cast<S*>(out.data_ptr()) + b * stride.b + plan.channel_of(quad, 0) * stride.c + y * stride.h;
        if (stride.c == 1)
          for (int64_t x = 0; x < plan.width; ++x)
            for (int64_t j = 0; j < valid; ++j) to[x * stride.w + j] = store<S>(from[4 * x + j]);
        else
          for (int64_t j = 0; j < valid; ++j)
            for (int64_t x = 0; x < plan.width; ++x) to[x * stride.w + j * stride.c] = store<S>(from[4 * x + j]);
      }
  });
}

// A thread takes some offset groups through the whole image: no other adds to the gradients of their channels.
template <typename T>
void backward(const Geometry& geometry, const Pixels& grad, const Tensor& input, const Pixels& offset,
              const Pixels* mask, const Tensor& weight, const Tensor& grad_input, const Tensor& grad_offset,
              const Tensor& grad_weight, const Tensor& grad_bias, const Tensor& grad_mask) {
  const Kernels<T> kernel = kernels<T>();
  const int64_t threads = torch::stable::get_num_threads(), groups = geometry.offset_groups;
  // Four offset groups of a tile fit in the second-level cache; as many rounds for each thread as that takes.
  const int64_t rounds = (groups + 4 * threads - 1) / (4 * threads);
  const Plan plan(geometry, kernel.lanes, (groups + rounds * threads - 1) / (rounds * threads));
  const int64_t row = plan.groups * plan.out_padded, chunks = (groups + plan.chunk - 1) / plan.chunk;
  const auto groups_of = [&](int64_t chunk) {
    return Span{chunk * plan.chunk, std::min((chunk + 1) * plan.chunk, groups)};
  };
  const std::vector<T> all = as_vector<T>(weight);
  std::vector<Vector<T>> packed(static_cast<size_t>(chunks));
  std::vector<int64_t> starts{0};  // where a chunk's weight gradients lie
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    int64_t elements = 0;
    for (int64_t part = 0; part < plan.groups; ++part) {
      WeightIndex index(plan, part, plan.shared_quads(part, groups_of(chunk)));
      if (index.inner.empty()) continue;
      elements += static_cast<int64_t>(index.inner.size()) * plan.out_padded;
      index.inner.resize(static_cast<size_t>(round_up(static_cast<int64_t>(index.inner.size()), kernel.lanes)), -1);
      pack_panels(all.data(), index.outer, index.inner, kernel.lanes * kernel.panel, packed[static_cast<size_t>(chunk)]);
    }
    starts.push_back(starts.back() + elements);
  }
  // Few offset groups leave threads idle: then the batch is split, too, and each part adds up weights of its own.
  const int64_t parts = chunks >= threads ? 1 : std::min(plan.batch, threads);
  Vector<T> sums(static_cast<size_t>(parts * starts.back()), T(0));
  std::vector<double> totals(static_cast<size_t>(parts * row), 0.0);
  torch::stable::parallel_for(0, parts * chunks, 1, [&](int64_t first, int64_t last) {
    const int64_t planes_size = plan.chunk * plan.group_quads * plan.plane + 4;
    const auto planes = buffer<T>(planes_size), grad_planes = buffer<T>(planes_size);
    const auto columns = buffer<T>(plan.group_quads * plan.taps * 4 * plan.tile + 11 * round_up(plan.tile, 16));
    const auto wanted = buffer<T>(plan.tile * plan.wanted_row);
    const auto moves = buffer<T>(3 * plan.chunk * plan.taps * plan.tile);  // where gradients wait to be converted
    T *const own_offsets = moves.get(), *const own_masks = own_offsets + 2 * plan.chunk * plan.taps * plan.tile;
    T *const to_offsets = direct<T>(grad_offset), *const to_masks = mask ? direct<T>(grad_mask) : nullptr;
    GradientReader<T> gradient(plan, grad);
    for (int64_t task = first; task < last; ++task) {
      const int64_t chunk = task % chunks, part = task / chunks;
      const Span own = groups_of(chunk), quads{own.begin * plan.group_quads, own.end * plan.group_quads};
      const int64_t number = own.begin * plan.taps, count = (own.end - own.begin) * plan.taps;
      const Pixels offsets = offset.part(2 * number, 2 * count);
      std::optional<Pixels> masks;
      if (mask) masks.emplace(mask->part(number, count));
      TileReader<T> reader(plan, offsets, masks ? &*masks : nullptr);
      for (int64_t b = part * plan.batch / parts; b < (part + 1) * plan.batch / parts; ++b) {
        quad_planes<T>(plan, input, {b, b + 1}, quads, planes.get());
        std::fill_n(grad_planes.get(), planes_size, T(0));
        for (int64_t i = 0; i < plan.tiles(); ++i) {
          const Span pixels = plan.pixels_of(i);
          const auto [rows, distance] = gradient.read(b, pixels);
          if (chunk == 0) add_rows(rows, distance, pixels.end - pixels.begin, row, totals.data() + part * row);
          const int64_t channel = b * groups * plan.taps + number, begin = pixels.begin;
          const Gradients<T> gradients{rows,
                                       distance,
                                       grad_planes.get(),
                                       to_offsets ? to_offsets + 2 * channel * plan.pixels() + begin : own_offsets,
                                       to_masks ? to_masks + channel * plan.pixels() + begin : own_masks,
                                       to_offsets ? plan.pixels() : plan.tile,
                                       to_masks ? plan.pixels() : plan.tile,
                                       sums.data() + part * starts.back() + starts[static_cast<size_t>(chunk)]};
          kernel.backward(plan, reader.read(b, pixels), own, planes.get(), packed[static_cast<size_t>(chunk)].data(),
                          reader.ones, reader.samples, columns.get(), wanted.get(), gradients);
          const auto convert = [&](const T* from, int64_t times, const Tensor& to) {
            store_rows(from, plan.tile, times * count, pixels.end - begin, to, times * channel, plan.pixels(), begin);
          };
          if (!to_offsets) convert(own_offsets, 2, grad_offset);
          if (mask && !to_masks) convert(own_masks, 1, grad_mask);
        }
        from_quad_planes<T>(plan, grad_planes.get(), b, quads, grad_input);
      }
    }
  });
  std::vector<T> weights(all.size(), T(0)), bias(static_cast<size_t>(plan.out_channels));
  for (int64_t part = 0; part < parts; ++part) {
    const T* from = sums.data() + part * starts.back();
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      for (int64_t group = 0; group < plan.groups; ++group) {
        const WeightIndex index(plan, group, plan.shared_quads(group, groups_of(chunk)));
        for (const int64_t inner : index.inner)
          for (const int64_t outer : index.outer) {
            if (inner >= 0 && outer >= 0) weights[static_cast<size_t>(inner + outer)] += *from;
            ++from;
          }
      }
  }
  for (int64_t part = 1; part < parts; ++part)
    for (int64_t c = 0; c < row; ++c) totals[static_cast<size_t>(c)] += totals[static_cast<size_t>(part * row + c)];
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
  for (Tensor* each : {&grad_input, &grad_offset, &grad_mask})
    ask_for_large_pages(each->data_ptr(), each->numel() * static_cast<int64_t>(each->element_size()));
  const ScalarType type = compute_type(input.scalar_type());
  const Pixels gradients(grad), offsets(offset);
  std::optional<Pixels> masks;
  if (mask) masks.emplace(*mask);
  const auto run = [&](auto tag) {
    using T = typename decltype(tag)::type;
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
  m.impl("deform_conv2d", MSR_BOX(&msr::deform_conv2d_cpu));
  m.impl("deform_conv2d_backward", MSR_BOX(&msr::deform_conv2d_backward_cpu));
}

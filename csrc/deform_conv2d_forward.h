// The forward pass of deform_conv2d on the CPU, for offsets and masks from any source. The output is worked through in
// tiles of some dozen pixels: the samples of a tile (its "columns") stay in the cache and are multiplied with the packed
// weights at once, so no large buffer of columns exists.
#pragma once

#include "deform_conv2d_cpu.h"

namespace msr::deform {
namespace {

// Packed weights, [step][4][columns], as pairs of bfloat16: [step][2][columns][2].
inline Vector<float> in_bfloat16(const Vector<float>& packed, int64_t columns) {
  Vector<float> pairs((packed.size() + 1) / 2);
  auto* out = reinterpret_cast<BFloat16*>(pairs.data());
  for (int64_t k = 0; k < static_cast<int64_t>(packed.size()) / columns; k += 2)
    for (int64_t n = 0; n < columns; ++n)
      for (int64_t j = 0; j < 2; ++j) *out++ = BFloat16(packed[static_cast<size_t>((k + j) * columns + n)]);
  return pairs;
}

// `reader_of(plan)` makes what finds the positions of a tile's samples, one for each thread: see TileReader.
template <typename T, typename ReaderOf>
void forward(const Geometry& geometry, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
             Tensor& out, const ReaderOf& reader_of) {
  const Kernels<T> kernel = kernels<T>();
  const Plan plan(geometry, kernel.lanes);
  T* planes = kept<T>(plan.batch * plan.quads * plan.plane + 4);
  quad_planes<T>(plan, input, {0, plan.batch}, {0, plan.quads}, planes);
  const std::vector<T> all = as_vector<T>(weight);
  Vector<T> packed;
  for (int64_t group = 0; group < plan.groups; ++group) {
    const WeightIndex index(plan, group, plan.quads_of(group));
    pack_panels(all.data(), index.inner, index.outer, kernel.lanes * kernel.panel, packed);
  }
  std::vector<T> start = bias ? as_vector<T>(*bias) : std::vector<T>(static_cast<size_t>(plan.out_channels), T(0));
  const int64_t row = plan.groups * plan.out_padded, size = plan.out_channels / plan.groups, tiles = plan.tiles();
  const bool channels_last = is_channels_last(out);
  ask_for_large_pages(out.data_ptr(), out.numel() * static_cast<int64_t>(out.element_size()));
  const bool bfloat16 = multiplies_bfloat16(plan, input.scalar_type());
  if constexpr (sizeof(T) == sizeof(float))
    if (bfloat16) packed = in_bfloat16(packed, plan.out_padded);
  const auto multiply_samples = forward_kernel<T>(plan, bfloat16);
  parallel(plan.batch * tiles, plan.tile * plan.quads * plan.taps * 64, [&](int64_t first, int64_t last) {
    auto reader = reader_of(plan);
    // Columns of two blocks and the places of one, see forward_interleaved.
    const auto columns = buffer<T>(plan.block * (2 * plan.group_quads + 1) * plan.taps * 4 * plan.tile),
               sums = buffer<T>(row * plan.tile),
               turned = buffer<T>(row * plan.tile);
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / tiles;
      const Span pixels = plan.pixels_of(i % tiles);
      const Tile<T> tile = reader.read(b, pixels);
      multiply_samples(plan, tile, planes + b * plan.quads * plan.plane, packed.data(), reader.samples, columns.get(),
                       sums.get());
      T* result = sums.get();  // [pixel][channel]
      int64_t width = row;
      if (!channels_last) {
        kernel.transpose(sums.get(), row, tile.count, row, turned.get(), plan.tile);
        result = turned.get();
        width = plan.tile;
      }
      dispatch_floating(out.scalar_type(), "deform_conv2d", [&](auto tag) {
        using S = typename decltype(tag)::type;
        S* to = static_cast<S*>(out.data_ptr()) + b * plan.out_channels * plan.pixels();
        to += channels_last ? pixels.begin * plan.out_channels : pixels.begin;
        with_simd([&] {
          for (int64_t g = 0; g < plan.groups; ++g) {
            const T* add = start.data() + g * size;
            for (int64_t i = 0; i < (channels_last ? tile.count : size); ++i) {
              if (channels_last) {
                const T* from = result + i * width + g * plan.out_padded;
                for (int64_t c = 0; c < size; ++c) to[i * plan.out_channels + g * size + c] = store<S>(from[c] + add[c]);
              } else {
                const T* from = result + (g * plan.out_padded + i) * width;
                S* plane = to + (g * size + i) * plan.pixels();
                for (int64_t p = 0; p < tile.count; ++p) plane[p] = store<S>(from[p] + add[i]);
              }
            }
          }
        });
      });
    }
  });
}

}  // namespace
}  // namespace msr::deform

// The backward pass of deform_conv2d on one tile: what the samples of an offset group give and take, and the two products.
//
// No include guard: see deform_conv2d_tile.h.

namespace msr::deform::MSR_ISA {

// One quad's part of the backward pass: `wanted` are the gradients of its columns, a row of plan.wanted_row a pixel.
// Adds to the gradient of the plane and to three dot products for each pixel: of the gradient with the samples of the
// upper row, of the lower row, and with the horizontal slope.
template <typename T>
inline void scatter_quad(const Plan& plan, int64_t count, const T* plane, const Samples<T>& at, const T* wanted,
                         T* grad_plane, T* upper_dot, T* lower_dot, T* slope_dot) {
  using quad = typename Lanes<T>::quad;
  for (int64_t p = 0; p < count; ++p) {
    const quad grad = *reinterpret_cast<const quad*>(wanted + p * plan.wanted_row);
    const quad* top = reinterpret_cast<const quad*>(plane + at.index[p]);
    const quad* bottom = reinterpret_cast<const quad*>(plane + at.index[p] + plan.row);
    const quad top_slope = top[1] - top[0], bottom_slope = bottom[1] - bottom[0];
    const quad upper = grad * (top[0] + top_slope * at.right[p]);
    const quad lower = grad * (bottom[0] + bottom_slope * at.right[p]);
    const quad slope = grad * (top_slope * at.above[p] + bottom_slope * at.below[p]);
    upper_dot[p] += (upper[0] + upper[1]) + (upper[2] + upper[3]);
    lower_dot[p] += (lower[0] + lower[1]) + (lower[2] + lower[3]);
    slope_dot[p] += (slope[0] + slope[1]) + (slope[2] + slope[3]);
    quad* grad_top = reinterpret_cast<quad*>(grad_plane + at.index[p]);
    quad* grad_bottom = reinterpret_cast<quad*>(grad_plane + at.index[p] + plan.row);
    const quad from_top = grad * at.upper[p], from_bottom = grad * at.lower[p];
    grad_top[0] += from_top - from_top * at.right[p];
    grad_top[1] += from_top * at.right[p];
    grad_bottom[0] += from_bottom - from_bottom * at.right[p];
    grad_bottom[1] += from_bottom * at.right[p];
  }
}

// c[4][vectors] += columns^T * rows over the pixels of a tile, for the four elements of one quad and tap.
template <typename T>
inline void multiply_transposed(int64_t count, const T* columns, const T* rows, int64_t row, int64_t vectors, T* c,
                                int64_t c_row) {
  constexpr int L = Lanes<T>::count, wide = Lanes<T>::panel;
  const int64_t steps = (count + 3) / 4;
  int64_t v = 0;
  for (; v + wide <= vectors; v += wide)
    multiply_block<T, 4, wide, 4>(columns, 1, 16, rows + v * L, row, steps, c + v * L, c_row);
  for (; v < vectors; ++v) multiply_block<T, 4, 1, 4>(columns, 1, 16, rows + v * L, row, steps, c + v * L, c_row);
}

// The samples of one offset group on one tile, `group` counted from the first of the tile: writes its columns and the
// gradients of its offsets and masks, and adds to those of its planes. `wanted` are the gradients of the columns, a row of
// plan.wanted_row a pixel; `ones` stands in for the mask where samples are needed without it.
template <typename T>
void sample_gradients(const Plan& plan, const Tile<T>& tile, int64_t group, const T* planes, const T* wanted,
                      const T* ones, const Samples<T>& at, T* columns, T* scratch, const Gradients<T>& grad) {
  T *upper_dot = scratch, *lower_dot = upper_dot + plan.tile, *slope_dot = lower_dot + plan.tile;
  for (int64_t tap = 0; tap < plan.taps; ++tap) {
    const int64_t number = group * plan.taps + tap;
    const T* mask = tile.masks + number * tile.mask_stride;
    locate_samples<T>(plan, tile, tap, number, ones, at);
    for (int64_t p = 0; p < plan.tile; ++p) {
      const T strength = p < tile.count ? mask[p] : T(0);
      at.above[p] = at.upper[p];
      at.below[p] = at.lower[p];
      at.upper[p] *= strength;
      at.lower[p] *= strength;
      upper_dot[p] = lower_dot[p] = slope_dot[p] = 0;
    }
    for (int64_t quad = 0; quad < plan.group_quads; ++quad) {
      const int64_t element = quad * plan.taps + tap;
      sample_quad<T>(plan, planes + quad * plan.plane, at, columns + element * plan.tile * 4);
      scatter_quad<T>(plan, tile.count, planes + quad * plan.plane, at, wanted + element * 4,
                      grad.planes + quad * plan.plane, upper_dot, lower_dot, slope_dot);
    }
    T *down = grad.offsets + 2 * number * grad.offset_stride, *along = down + grad.offset_stride;
    T* strengths = grad.masks + number * grad.mask_stride;
    for (int64_t p = 0; p < tile.count; ++p) {
      down[p] = mask[p] * (lower_dot[p] - upper_dot[p]);
      along[p] = mask[p] * slope_dot[p];
      strengths[p] = at.above[p] * upper_dot[p] + at.below[p] * lower_dot[p];
    }
  }
}

#if MSR_VECTOR_BYTES == 64
// Makes quarter j of vector i quarter i of vector j.
inline void turn_quarters(__m512 (&v)[4]) {
  const __m512 a = _mm512_shuffle_f32x4(v[0], v[1], 0x44), b = _mm512_shuffle_f32x4(v[2], v[3], 0x44);
  const __m512 c = _mm512_shuffle_f32x4(v[0], v[1], 0xEE), d = _mm512_shuffle_f32x4(v[2], v[3], 0xEE);
  v[0] = _mm512_shuffle_f32x4(a, b, 0x88), v[1] = _mm512_shuffle_f32x4(a, b, 0xDD);
  v[2] = _mm512_shuffle_f32x4(c, d, 0x88), v[3] = _mm512_shuffle_f32x4(c, d, 0xDD);
}

// Quarter j is the sum of the quarters of vector j.
inline __m512 sum_quarters(const __m512 (&v)[4]) {
  const __m512 a = _mm512_shuffle_f32x4(v[0], v[1], 0x44) + _mm512_shuffle_f32x4(v[0], v[1], 0xEE);
  const __m512 b = _mm512_shuffle_f32x4(v[2], v[3], 0x44) + _mm512_shuffle_f32x4(v[2], v[3], 0xEE);
  return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xDD);
}

// Element j of each quarter is the sum of that quarter of vector j.
inline __m512 sum_in_quarters(const __m512 (&v)[4]) {
  const __m512 a = _mm512_unpacklo_ps(v[0], v[1]) + _mm512_unpackhi_ps(v[0], v[1]);
  const __m512 b = _mm512_unpacklo_ps(v[2], v[3]) + _mm512_unpackhi_ps(v[2], v[3]);
  return _mm512_shuffle_ps(a, b, 0x44) + _mm512_shuffle_ps(a, b, 0xEE);
}

// One quad of one tap for pixels p .. p + 3. A vector holds the four corners of a sample, upper left, upper right, lower
// left and lower right, each the four channels of the quad; `weights` and `dots` are [pixels / 4][corner][4 pixels].
inline void sample_four(const Plan& plan, int64_t p, const float* plane, const int* index, const float* weights,
                        const float* wanted, float* grad_plane, float* column, float* dots, bool more) {
  const __m512 weight = _mm512_load_ps(weights + 4 * p);
  __m512 samples[4], products[4];
  const auto one = [&](int j, __m512 strength) {
    const float* corner = plane + index[p + j];
    const __m512 corners = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(corner)),
                                              _mm256_loadu_ps(corner + plan.row), 1);
    const __m512 grad = _mm512_broadcast_f32x4(_mm_loadu_ps(wanted + (p + j) * plan.wanted_row));
    samples[j] = corners * strength;
    products[j] = corners * grad;
    // Quarter by quarter: the next pixel often adds to some of the same, and then finds them only if it reads what was
    // written as one.
    const __m512 given = grad * strength;
    float *top = grad_plane + index[p + j], *bottom = top + plan.row;
    _mm_store_ps(top, _mm_load_ps(top) + _mm512_castps512_ps128(given));
    _mm_store_ps(top + 4, _mm_load_ps(top + 4) + _mm512_extractf32x4_ps(given, 1));
    _mm_store_ps(bottom, _mm_load_ps(bottom) + _mm512_extractf32x4_ps(given, 2));
    _mm_store_ps(bottom + 4, _mm_load_ps(bottom + 4) + _mm512_extractf32x4_ps(given, 3));
  };
  one(0, _mm512_permute_ps(weight, 0x00));
  one(1, _mm512_permute_ps(weight, 0x55));
  one(2, _mm512_permute_ps(weight, 0xAA));
  one(3, _mm512_permute_ps(weight, 0xFF));
  _mm512_store_ps(column + 4 * p, sum_quarters(samples));
  const __m512 sums = sum_in_quarters(products);
  _mm512_store_ps(dots + 4 * p, more ? sums + _mm512_load_ps(dots + 4 * p) : sums);
}

// As above, for float: the four corners of a sample fill a vector.
inline void sample_gradients(const Plan& plan, const Tile<float>& tile, int64_t group, const float* planes,
                             const float* wanted, const float*, const Samples<float>&, float* columns, float* scratch,
                             const Gradients<float>& grad) {
  const int64_t room = round_up(plan.tile, 16);
  float *weights = scratch, *dots = weights + 4 * room, *right = dots + 4 * room, *below = right + room;
  int* index = reinterpret_cast<int*>(below + room);
  const __m512 outside = _mm512_set1_ps(-2), one = _mm512_set1_ps(1);
  const __m512 height = _mm512_set1_ps(static_cast<float>(plan.height));
  const __m512 width = _mm512_set1_ps(static_cast<float>(plan.width));
  const __m512i stride = _mm512_set1_epi32(static_cast<int>(plan.row));
  const __m512i origin = _mm512_set1_epi32(static_cast<int>(2 * plan.row + 8));
  const auto some = [&](int64_t p) -> __mmask16 { return tile.count - p >= 16 ? 0xFFFF : (1 << (tile.count - p)) - 1; };
  for (int64_t tap = 0; tap < plan.taps; ++tap) {
    const int64_t number = group * plan.taps + tap;
    const float* mask = tile.masks + number * tile.mask_stride;
    const float *offset_y = tile.offsets + 2 * number * tile.offset_stride, *offset_x = offset_y + tile.offset_stride;
    const __m512 shift_y = _mm512_set1_ps(static_cast<float>(tap / plan.kernel_w * plan.dilation_h));
    const __m512 shift_x = _mm512_set1_ps(static_cast<float>(tap % plan.kernel_w * plan.dilation_w));
    for (int64_t p = 0; p < tile.count; p += 16) {
      const __mmask16 valid = some(p);
      __m512 y = (shift_y + _mm512_maskz_loadu_ps(valid, tile.base_y + p)) + _mm512_maskz_loadu_ps(valid, offset_y + p);
      __m512 x = (shift_x + _mm512_maskz_loadu_ps(valid, tile.base_x + p)) + _mm512_maskz_loadu_ps(valid, offset_x + p);
      // The maximum of NaN and a number is the second of them, see locate().
      y = _mm512_min_ps(_mm512_max_ps(y, outside), height);
      x = _mm512_min_ps(_mm512_max_ps(x, outside), width);
      const __m512 top = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
      const __m512 left = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
      const __m512i place = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_cvttps_epi32(top), stride),
                                             _mm512_slli_epi32(_mm512_cvttps_epi32(left), 2));
      const __m512 fy = y - top, fx = x - left, strength = _mm512_maskz_loadu_ps(valid, mask + p);
      const __m512 lower = strength * fy, upper = strength - lower;
      __m512 corners[4] = {upper, upper * fx, lower, lower * fx};
      corners[0] -= corners[1];
      corners[2] -= corners[3];
      turn_quarters(corners);
      for (int i = 0; i < 4; ++i) _mm512_store_ps(weights + 4 * p + 16 * i, corners[i]);
      _mm512_store_si512(index + p, _mm512_add_epi32(place, origin));
      _mm512_store_ps(right + p, fx);
      _mm512_store_ps(below + p, fy);
    }
    float *down = grad.offsets + 2 * number * grad.offset_stride, *along = down + grad.offset_stride;
    float* strengths = grad.masks + number * grad.mask_stride;
    for (int64_t quad = 0; quad < plan.group_quads; ++quad) {
      const int64_t element = quad * plan.taps + tap;
      for (int64_t p = 0; p < tile.count; p += 4) {
        if (p % 16 == 0 && quad == 0) {
          // Rows of planes far apart, which no prefetcher follows: ask for those of the next tap.
          __builtin_prefetch(offset_y + 2 * tile.offset_stride + p);
          __builtin_prefetch(offset_x + 2 * tile.offset_stride + p);
          __builtin_prefetch(mask + tile.mask_stride + p);
          __builtin_prefetch(down + p, 1);
          __builtin_prefetch(along + p, 1);
          __builtin_prefetch(strengths + p, 1);
        }
        sample_four(plan, p, planes + quad * plan.plane, index, weights, wanted + element * 4,
                    grad.planes + quad * plan.plane, columns + element * plan.tile * 4, dots, quad > 0);
      }
    }
    for (int64_t p = 0; p < tile.count; p += 16) {
      __m512 dot[4];
      for (int i = 0; i < 4; ++i) dot[i] = _mm512_load_ps(dots + 4 * p + 16 * i);
      turn_quarters(dot);
      const __mmask16 valid = some(p);
      const __m512 fx = _mm512_load_ps(right + p), fy = _mm512_load_ps(below + p);
      const __m512 strength = _mm512_maskz_loadu_ps(valid, mask + p);
      const __m512 top_slope = dot[1] - dot[0], bottom_slope = dot[3] - dot[2];
      const __m512 upper = dot[0] + top_slope * fx, lower = dot[2] + bottom_slope * fx;
      _mm512_mask_storeu_ps(down + p, valid, strength * (lower - upper));
      _mm512_mask_storeu_ps(along + p, valid, strength * (top_slope * (one - fy) + bottom_slope * fy));
      _mm512_mask_storeu_ps(strengths + p, valid, upper * (one - fy) + lower * fy);
    }
  }
}
#endif

// One tile and some offset groups of the backward pass. `weights` is packed for wanted = gradients of the output *
// weights^T; `planes` and the tile's offsets and masks start with the first of the groups.
template <typename T>
void backward_tile(const Plan& plan, const Tile<T>& tile, Span groups, const T* planes, const T* weights, const T* ones,
                   const Samples<T>& at, T* columns, T* wanted, const Gradients<T>& grad) {
  constexpr int L = Lanes<T>::count;
  const int64_t first = groups.begin * plan.group_quads, each = plan.group_quads * plan.taps * 4;
  std::fill_n(wanted, plan.tile * plan.wanted_row, T(0));
  for (int64_t part = 0; part < plan.groups; ++part) {
    const Span quads = plan.shared_quads(part, groups);
    if (quads.begin >= quads.end) continue;
    const int64_t vectors = ((quads.end - quads.begin) * plan.taps * 4 + L - 1) / L, steps = plan.out_padded / 4;
    multiply<T>(tile.count, grad.out + part * plan.out_padded, grad.out_row, 4, weights, steps, 0, steps, vectors,
                wanted + (quads.begin - first) * plan.taps * 4, plan.wanted_row);
    weights += vectors * L * plan.out_padded;
  }
  for (int64_t group = groups.begin; group < groups.end; ++group) {
    const int64_t number = group - groups.begin;
    Gradients<T> own = grad;
    own.planes += number * plan.group_quads * plan.plane;
    sample_gradients(plan, tile, number, planes + number * plan.group_quads * plan.plane, wanted + number * each, ones, at,
                     columns, columns + each * plan.tile, own);
    T* sums = grad.weights;
    for (int64_t part = 0; part < plan.groups; ++part) {
      const Span all = plan.shared_quads(part, groups), quads = plan.shared_quads(part, {group, group + 1});
      const int64_t begin = group * plan.group_quads;
      T* weight = sums + (quads.begin - all.begin) * plan.taps * 4 * plan.out_padded;
      for (int64_t element = (quads.begin - begin) * plan.taps; element < (quads.end - begin) * plan.taps; ++element) {
        multiply_transposed<T>(tile.count, columns + element * plan.tile * 4, grad.out + part * plan.out_padded,
                               grad.out_row, plan.out_padded / L, weight, plan.out_padded);
        weight += 4 * plan.out_padded;
      }
      sums += std::max<int64_t>(all.end - all.begin, 0) * plan.taps * 4 * plan.out_padded;
    }
  }
}

}  // namespace msr::deform::MSR_ISA

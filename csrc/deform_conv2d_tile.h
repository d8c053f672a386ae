// The inner loops of deform_conv2d on the CPU: sampling and matrix products over one tile of output pixels.
//
// No include guard: deform_conv2d.cpp includes this file once per instruction set, with MSR_ISA (the namespace) and
// MSR_VECTOR_BYTES (the register width) defined and the compiler's target switched, so the same text becomes AVX-512,
// AVX2 and portable code. Channels travel in quads: four channels of one offset group, zero-padded, so that a sample
// is one short vector. A column buffer is
// [quad][tap][pixel][4].

namespace msr::deform::MSR_ISA {

template <typename T>
struct Lanes {
  static constexpr int count = MSR_VECTOR_BYTES / sizeof(T);
  static constexpr int panel = MSR_VECTOR_BYTES == 64 ? 4 : 2;  // vectors side by side in a product, as registers allow
  typedef T vector __attribute__((vector_size(MSR_VECTOR_BYTES)));
  typedef T unaligned __attribute__((vector_size(MSR_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  typedef T quad __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
};

// Finds the samples of one tap for all pixels of the tile: where the upper left pixel lies in its padded plane, weights
// of the two rows (times the mask) and of the right column. Pixels past the end of the tile get weights of zero.
template <typename T>
inline void locate_samples(const Plan& plan, const Tile<T>& tile, int64_t tap, int64_t number, const T* mask,
                           const Samples<T>& out) {
  const int stride = static_cast<int>(plan.row), origin = 2 * stride + 8;
  const T height = static_cast<T>(plan.height), width = static_cast<T>(plan.width);
  const T shift_y = static_cast<T>(tap / plan.kernel_w * plan.dilation_h);
  const T shift_x = static_cast<T>(tap % plan.kernel_w * plan.dilation_w);
  const T* offset_y = tile.offsets + 2 * number * tile.offset_stride;
  const T* offset_x = offset_y + tile.offset_stride;
  const T *base_y = tile.base_y, *base_x = tile.base_x;
  T *upper = out.upper, *lower = out.lower, *right = out.right;
  int* index = out.index;
#pragma GCC ivdep
  for (int64_t p = 0; p < tile.count; ++p) {
    T fy, fx;
    const int top = locate<T>((shift_y + base_y[p]) + offset_y[p], height, fy);
    const int left = locate<T>((shift_x + base_x[p]) + offset_x[p], width, fx);
    index[p] = top * stride + 4 * left + origin;
    upper[p] = mask[p] - mask[p] * fy;
    lower[p] = mask[p] * fy;
    right[p] = fx;
  }
  for (int64_t p = tile.count; p < plan.tile; ++p) {
    index[p] = 0;
    upper[p] = lower[p] = right[p] = 0;
  }
}

// Samples one quad for the whole tile: `plane` is [height + 4][width + 3][4], `column` is [pixel][4].
template <typename T>
inline void sample_quad(const Plan& plan, const T* plane, const Samples<T>& at, T* column) {
  using quad = typename Lanes<T>::quad;
  // Copies, as the compiler must assume that the stores below change what `at` points to.
  const int* index = at.index;
  const T *upper_row = at.upper, *lower_row = at.lower, *fractions = at.right;
  const int64_t below = plan.row, count = plan.tile;
  int64_t p = 0;
#if MSR_VECTOR_BYTES > 16
  if constexpr (sizeof(T) == 4) {
    // The left and right neighbours of a quad lie side by side: one load fetches both.
    for (; p < count; ++p) {
      const T* corner = plane + index[p];
      const __m256 top = _mm256_mul_ps(_mm256_loadu_ps(corner), _mm256_set1_ps(upper_row[p]));
      const __m256 both = _mm256_fmadd_ps(_mm256_loadu_ps(corner + below), _mm256_set1_ps(lower_row[p]), top);
      const __m128 left = _mm256_castps256_ps128(both), slope = _mm_sub_ps(_mm256_extractf128_ps(both, 1), left);
      _mm_storeu_ps(column + 4 * p, _mm_fmadd_ps(slope, _mm_set1_ps(fractions[p]), left));
    }
  }
#endif
  for (; p < count; ++p) {
    const T* corner = plane + index[p];
    const quad *top = reinterpret_cast<const quad*>(corner), *bottom = reinterpret_cast<const quad*>(corner + below);
    const quad left = top[0] * upper_row[p] + bottom[0] * lower_row[p];
    const quad right = top[1] * upper_row[p] + bottom[1] * lower_row[p];
    *reinterpret_cast<quad*>(column + 4 * p) = left + (right - left) * fractions[p];
  }
}

// c[row][0 .. N vectors) += a[row][k] * b[k][..]. k runs in steps of four: a's element (row, step, j) is at
// row * a_row + step * a_step + j * A, that of b (step, j, ..) at (4 * step + j) * b_row.
template <typename T, int ROWS, int N, int A>
inline void multiply_block(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_row, int64_t steps, T* c,
                           int64_t c_row) {
  using vector = typename Lanes<T>::vector;
  using unaligned = typename Lanes<T>::unaligned;
  constexpr int L = Lanes<T>::count;
  vector sum[ROWS][N];
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sum[m][n] = *reinterpret_cast<const unaligned*>(c + m * c_row + n * L);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      vector right[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) right[n] = *reinterpret_cast<const unaligned*>(b + j * b_row + n * L);
#pragma GCC unroll 16
      for (int m = 0; m < ROWS; ++m) {
        const vector left = a[m * a_row + j * A] - vector{};  // not 0 + x, which is an addition where x may be -0
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sum[m][n] += left * right[n];
      }
    }
    a += a_step;
    b += 4 * b_row;
  }
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) *reinterpret_cast<unaligned*>(c + m * c_row + n * L) = sum[m][n];
}

// The product for (at least) `rows` rows and `vectors` vectors of columns, in packed panels (see pack_panels).
template <typename T, int ROWS, int N>
inline void multiply_panel(int64_t rows, const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t steps, T* c,
                           int64_t c_row) {
  for (int64_t p = 0; p < rows; p += ROWS)
    multiply_block<T, ROWS, N, 1>(a + p * a_row, a_row, a_step, b, N * Lanes<T>::count, steps, c + p * c_row, c_row);
}

template <typename T>
inline void multiply(int64_t rows, const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t packed_steps,
                     int64_t first_step, int64_t steps, int64_t vectors, T* c, int64_t c_row) {
  constexpr int L = Lanes<T>::count, wide = Lanes<T>::panel;
  for (int64_t v = 0; v < vectors; v += wide) {
    const int64_t n = vectors - v;
    const T* panel = b + 4 * L * (v * packed_steps + std::min<int64_t>(n, wide) * first_step);
    if constexpr (wide == 4) {
      if (n >= 4) multiply_panel<T, 6, 4>(rows, a, a_row, a_step, panel, steps, c + v * L, c_row);
      if (n == 3) multiply_panel<T, 8, 3>(rows, a, a_row, a_step, panel, steps, c + v * L, c_row);
      if (n == 2) multiply_panel<T, 12, 2>(rows, a, a_row, a_step, panel, steps, c + v * L, c_row);
      if (n == 1) multiply_panel<T, 12, 1>(rows, a, a_row, a_step, panel, steps, c + v * L, c_row);
    } else {
      if (n >= 2) multiply_panel<T, 6, 2>(rows, a, a_row, a_step, panel, steps, c + v * L, c_row);
      if (n == 1) multiply_panel<T, 6, 1>(rows, a, a_row, a_step, panel, steps, c + v * L, c_row);
    }
  }
}

// Turns `rows` rows of `count` elements into columns: to[c * to_row + r] = from[r * from_row + c].
template <typename T>
void transpose(const T* from, int64_t from_row, int64_t rows, int64_t count, T* to, int64_t to_row) {
  for (int64_t first = 0; first < count; first += 16) {  // a cache line of every row at a time
    const int64_t last = std::min(first + 16, count);
    int64_t r = 0;
#if MSR_VECTOR_BYTES > 16
    if constexpr (sizeof(T) == 4) {
      for (; r + 4 <= rows; r += 4) {
        const T* at = from + r * from_row;
        int64_t c = first;
        for (; c + 4 <= last; c += 4) {
          __m128 w = _mm_loadu_ps(at + c), x = _mm_loadu_ps(at + from_row + c);
          __m128 y = _mm_loadu_ps(at + 2 * from_row + c), z = _mm_loadu_ps(at + 3 * from_row + c);
          _MM_TRANSPOSE4_PS(w, x, y, z);
          _mm_storeu_ps(to + c * to_row + r, w);
          _mm_storeu_ps(to + (c + 1) * to_row + r, x);
          _mm_storeu_ps(to + (c + 2) * to_row + r, y);
          _mm_storeu_ps(to + (c + 3) * to_row + r, z);
        }
        for (; c < last; ++c)
          for (int64_t i = 0; i < 4; ++i) to[c * to_row + r + i] = at[i * from_row + c];
      }
    }
#endif
    for (; r < rows; ++r)
      for (int64_t c = first; c < last; ++c) to[c * to_row + r] = from[r * from_row + c];
  }
}

// One tile of the forward pass: `sums` is [pixel][groups * out_padded]. Offset groups are taken a few at a time, so many
// that their columns stay in the first-level cache between being sampled and being multiplied.
template <typename T>
void forward_tile(const Plan& plan, const Tile<T>& tile, const T* image, const T* weights, const Samples<T>& at,
                  T* columns, T* sums) {
  constexpr int ahead = 3;
  const int64_t row = plan.groups * plan.out_padded, vectors = plan.out_padded / Lanes<T>::count;
  for (int64_t i = 0; i < plan.tile * row; ++i) sums[i] = 0;
  for (int64_t first = 0; first < plan.offset_groups; first += plan.block) {
    const int64_t last = std::min(first + plan.block, plan.offset_groups);
    for (int64_t number = first * plan.taps; number < last * plan.taps; ++number) {
      const int64_t group = number / plan.taps, tap = number % plan.taps;
      const T* mask = tile.masks + number * tile.mask_stride;
      // Offsets come from hundreds of places far apart, each read once: ask for them some taps before they are used.
      for (int64_t p = 0; p < tile.count + 15; p += int64_t{64 / sizeof(T)}) {
        __builtin_prefetch(tile.offsets + 2 * (number + ahead) * tile.offset_stride + p);
        __builtin_prefetch(tile.offsets + (2 * (number + ahead) + 1) * tile.offset_stride + p);
        __builtin_prefetch(mask + ahead * tile.mask_stride + p);
      }
      locate_samples<T>(plan, tile, tap, number, mask, at);
      for (int64_t quad = group * plan.group_quads; quad < (group + 1) * plan.group_quads; ++quad)
        sample_quad<T>(plan, image + quad * plan.plane, at,
                       columns + ((quad - first * plan.group_quads) * plan.taps + tap) * plan.tile * 4);
    }
    const T* packed = weights;
    for (int64_t group = 0; group < plan.groups; ++group) {
      const Span span = plan.quads_of(group);
      const int64_t begin = std::max(span.begin, first * plan.group_quads);
      const int64_t end = std::min(span.end, last * plan.group_quads);
      const int64_t steps = (span.end - span.begin) * plan.taps;
      if (begin < end)
        multiply<T>(tile.count, columns + (begin - first * plan.group_quads) * plan.taps * plan.tile * 4, 4,
                    plan.tile * 4, packed, steps, (begin - span.begin) * plan.taps, (end - begin) * plan.taps, vectors,
                    sums + group * plan.out_padded, row);
      packed += steps * 4 * plan.out_padded;
    }
  }
}

}  // namespace msr::deform::MSR_ISA

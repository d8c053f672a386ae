// The forward pass of deform_conv2d on one tile for AVX-512 and float: the samples of one block of offset groups are taken
// between the multiplications of the block before. A product keeps the multipliers busy and leaves most loads unused, and
// sampling is the other way round, so that together they cost little more than the product alone.
//
// Columns are [ROWS pixels][quad and tap][ROWS][4], where ROWS is the height of the product's blocks. Of which numbers they
// and the weights consist is that of the product: FloatProduct, or BFloat16Product in deform_conv2d_bfloat16.h.
//
// No include guard: see deform_conv2d_tile.h.

namespace msr::deform::MSR_ISA {

// Where the samples of one quad and tap come from: its plane; the tile's indices and weights [4][tile]; offsets and mask
// of the same tap in the following block, to be fetched meanwhile.
struct Source {
  const float *plane, *at, *next_offset, *next_mask;
};

// Takes one sample; `at` is the pixel's place in [index, upper, lower, right][tile].
inline void take_sample(const Plan& plan, const float* plane, const float* at, float* out) {
  // The left and right neighbours of a quad lie side by side: one load fetches both.
  const float* corner = plane + *reinterpret_cast<const int*>(at);
  const __m256 top = _mm256_mul_ps(_mm256_loadu_ps(corner), _mm256_set1_ps(at[plan.tile]));
  const __m256 both = _mm256_fmadd_ps(_mm256_loadu_ps(corner + plan.row), _mm256_set1_ps(at[2 * plan.tile]), top);
  const __m128 left = _mm256_castps256_ps128(both), slope = _mm_sub_ps(_mm256_extractf128_ps(both, 1), left);
  _mm_storeu_ps(out, _mm_fmadd_ps(slope, _mm_set1_ps(at[3 * plan.tile]), left));
}

// multiply_block on `a` and, step by step, the samples of ROWS pixels from p on.
template <int ROWS, int N>
inline void multiply_and_sample(const Plan& plan, const float* a, const float* b, int64_t steps, float* c,
                                const Source* sources, int64_t p, int64_t offset_stride, float* next) {
  using vector = typename Lanes<float>::vector;
  using unaligned = typename Lanes<float>::unaligned;
  constexpr int L = Lanes<float>::count;
  vector sum[ROWS][N];
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sum[m][n] = *reinterpret_cast<const unaligned*>(c + (m * N + n) * L);
  for (int64_t step = 0; step < steps; ++step) {
    const Source& source = sources[step];
    __builtin_prefetch(source.next_offset + p);
    __builtin_prefetch(source.next_offset + offset_stride + p);
    __builtin_prefetch(source.next_mask + p);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      vector right[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) right[n] = *reinterpret_cast<const unaligned*>(b + (j * N + n) * L);
#pragma GCC unroll 16
      for (int m = 0; m < ROWS; ++m) {
        const vector left = a[m * 4 + j] - vector{};  // not 0 + x, which is an addition where x may be -0
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sum[m][n] += left * right[n];
      }
#pragma GCC unroll 16
      for (int m = 0; m < ROWS; ++m)
        if (m * 4 / ROWS == j) take_sample(plan, source.plane, source.at + p + m, next + 4 * m);
    }
    a += 4 * ROWS;
    next += 4 * ROWS;
    b += 4 * N * L;
  }
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) *reinterpret_cast<unaligned*>(c + (m * N + n) * L) = sum[m][n];
}

template <int rows, int vectors>
struct FloatProduct {
  using Element = float;
  static constexpr int kRows = rows, kVectors = vectors;

  // Adds to c [rows][vectors] the product of the columns `a` and the weights `b`, and takes the samples of pixels p, p + 1, ..
  static void multiply_and_sample(const Plan& plan, const float* a, const float* b, int64_t steps, float* c,
                                  const Source* sources, int64_t p, int64_t offset_stride, float* next) {
    avx512::multiply_and_sample<rows, vectors>(plan, a, b, steps, c, sources, p, offset_stride, next);
  }
  static void multiply(const float* a, const float* b, int64_t steps, float* c) {
    constexpr int64_t row = vectors * Lanes<float>::count;
    multiply_block<float, rows, vectors, 1>(a, 4, 4 * rows, b, row, steps, c, row);
  }
  static void sample(const Plan& plan, const Source* sources, int64_t steps, int64_t p, float* out) {
    for (int64_t step = 0; step < steps; ++step)
      for (int m = 0; m < rows; ++m, out += 4) take_sample(plan, sources[step].plane, sources[step].at + p + m, out);
  }
};

// As forward_tile, for one convolution group with kVectors vectors of output channels. `memory` holds the columns of two
// blocks and, for the taps of one, where their samples are: [tap][index, upper, lower, right][tile]. `packed` are weights of
// the product's elements.
template <typename Product>
void forward_interleaved(const Plan& plan, const Tile<float>& tile, const float* image, const float* packed,
                         const Samples<float>&, float* memory, float* sums) {
  using Element = typename Product::Element;
  constexpr int ROWS = Product::kRows;
  constexpr int64_t row = Product::kVectors * Lanes<float>::count;
  const int64_t taps = plan.taps, quads = plan.group_quads, room = plan.tile;
  const int64_t all = plan.block * quads * taps;  // steps of a whole block
  const Element* weights = reinterpret_cast<const Element*>(packed);
  Element *columns = reinterpret_cast<Element*>(memory), *others = columns + all * 4 * room;
  float* places = memory + 2 * all * 4 * room;
  std::vector<Source> sources(static_cast<size_t>(all));
  std::fill_n(sums, room * row, 0.0f);
  int64_t before = 0;  // steps of the block that is sampled and waits to be multiplied
  for (int64_t first = 0; first < plan.offset_groups + plan.block; first += plan.block) {
    const int64_t last = std::min(first + plan.block, plan.offset_groups);
    int64_t steps = 0;
    for (int64_t group = first; group < last; ++group) {
      float* place = places + (group - first) * taps * 4 * room;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t number = group * taps + tap;
        float* at = place + tap * 4 * room;
        locate_samples<float>(plan, tile, tap, number, tile.masks + number * tile.mask_stride,
                              {reinterpret_cast<int*>(at), at + room, at + 2 * room, at + 3 * room, nullptr, nullptr});
      }
      for (int64_t quad = group * quads; quad < (group + 1) * quads; ++quad)
        for (int64_t tap = 0; tap < taps; ++tap) {
          const int64_t next = (group + plan.block) * taps + tap;
          sources[static_cast<size_t>(steps++)] = {image + quad * plan.plane, place + tap * 4 * room,
                                                   tile.offsets + 2 * next * tile.offset_stride,
                                                   tile.masks + next * tile.mask_stride};
        }
    }
    const int64_t both = std::min(before, steps);
    for (int64_t p = 0; p < tile.count; p += ROWS) {
      const Element* a = others + p * all * 4;
      Element* out = columns + p * all * 4;
      float* c = sums + p * row;
      if (both > 0)
        Product::multiply_and_sample(plan, a, weights, both, c, sources.data(), p, tile.offset_stride, out);
      if (both < steps) Product::sample(plan, sources.data() + both, steps - both, p, out + both * ROWS * 4);
      if (both < before) Product::multiply(a + both * 4 * ROWS, weights + both * 4 * row, before - both, c);
    }
    weights += before * 4 * row;
    before = steps;
    std::swap(columns, others);
  }
}

}  // namespace msr::deform::MSR_ISA

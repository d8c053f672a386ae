// What forward_interleaved multiplies by on CPUs that multiply bfloat16 (AVX-512 BF16), for input of that type: samples are
// rounded to bfloat16 and multiplied two at a time, which halves the product. Sums are float32.
//
// Columns are [rows pixels][quad and tap][rows][4], weights [quad and tap][2][vectors][16][2], all bfloat16.
#pragma once

namespace msr::deform::avx512_bf16 {

using avx512::Source;

// One sample, see avx512::take_sample, as four bfloat16.
inline void take_sample(const Plan& plan, const float* plane, const float* at, uint16_t* out) {
  alignas(16) float sample[4];
  avx512::take_sample(plan, plane, at, sample);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), reinterpret_cast<__m128i>(_mm_cvtneps_pbh(_mm_load_ps(sample))));
}

inline __m512bh pair(const uint16_t* at) {
  int both;
  std::memcpy(&both, at, sizeof(both));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
}

// See FloatProduct.
template <int rows, int vectors>
struct BFloat16Product {
  using Element = uint16_t;
  static constexpr int kRows = rows, kVectors = vectors;

  static void multiply_and_sample(const Plan& plan, const uint16_t* a, const uint16_t* b, int64_t steps, float* c,
                                  const Source* sources, int64_t p, int64_t offset_stride, uint16_t* next) {
    run<true>(&plan, a, b, steps, c, sources, p, offset_stride, next);
  }
  static void multiply(const uint16_t* a, const uint16_t* b, int64_t steps, float* c) {
    run<false>(nullptr, a, b, steps, c);
  }
  static void sample(const Plan& plan, const Source* sources, int64_t steps, int64_t p, uint16_t* out) {
    for (int64_t step = 0; step < steps; ++step)
      for (int m = 0; m < rows; ++m, out += 4) take_sample(plan, sources[step].plane, sources[step].at + p + m, out);
  }

 private:
  template <bool kSample>
  static inline __attribute__((always_inline)) void run(const Plan* plan, const uint16_t* a, const uint16_t* b, int64_t steps,
                                                        float* c, const Source* sources = nullptr, int64_t p = 0,
                                                        int64_t offset_stride = 0, uint16_t* next = nullptr) {
    __m512 sum[rows][vectors];
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m)
#pragma GCC unroll 4
      for (int n = 0; n < vectors; ++n) sum[m][n] = _mm512_loadu_ps(c + (m * vectors + n) * 16);
    for (int64_t step = 0; step < steps; ++step) {
      if constexpr (kSample) {
        __builtin_prefetch(sources[step].next_offset + p);
        __builtin_prefetch(sources[step].next_offset + offset_stride + p);
        __builtin_prefetch(sources[step].next_mask + p);
      }
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        __m512bh right[vectors];
#pragma GCC unroll 4
        for (int n = 0; n < vectors; ++n)
          right[n] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + (j * vectors + n) * 32));
#pragma GCC unroll 16
        for (int m = 0; m < rows; ++m) {
          const __m512bh left = pair(a + m * 4 + 2 * j);
#pragma GCC unroll 4
          for (int n = 0; n < vectors; ++n) sum[m][n] = _mm512_dpbf16_ps(sum[m][n], left, right[n]);
          if constexpr (kSample)
            if (m * 2 / rows == j)
              take_sample(*plan, sources[step].plane, sources[step].at + p + m, next + 4 * m);
        }
      }
      a += 4 * rows;
      b += 4 * vectors * 16;
      if constexpr (kSample) next += 4 * rows;
    }
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m)
#pragma GCC unroll 4
      for (int n = 0; n < vectors; ++n) _mm512_storeu_ps(c + (m * vectors + n) * 16, sum[m][n]);
  }
};

}  // namespace msr::deform::avx512_bf16

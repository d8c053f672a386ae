// The inner loop of correlation.cpp, included there once for each instruction set: GCC lowers vector types by the
// instruction set of the function that it reads them in, before it inlines (see row_convolution_body.h).
//
// out[n * pitch + x] = sum over t of left[t][x] * right[t][n * step + x] for G sums n from `first` on and a vector of
// neighbouring x: the left factor is read once for all of them.

template <typename A, int G>
MSR_TARGET void MSR_NAME(const A* const* left, const A* const* right, int64_t terms, int64_t step, int64_t first, int64_t x,
                         A* out, int64_t pitch) {
  typedef A Vector __attribute__((vector_size(MSR_BYTES)));
  typedef A Loose __attribute__((vector_size(MSR_BYTES), aligned(sizeof(A)), may_alias));
  Vector sum[G];
#pragma GCC unroll 16
  for (int g = 0; g < G; ++g) sum[g] = Vector{};
  for (int64_t t = 0; t < terms; ++t) {
    const Vector factor = *reinterpret_cast<const Loose*>(left[t] + x);
    const A* const from = right[t] + first * step + x;
#pragma GCC unroll 16
    for (int g = 0; g < G; ++g) sum[g] += factor * *reinterpret_cast<const Loose*>(from + g * step);
  }
#pragma GCC unroll 16
  for (int g = 0; g < G; ++g) *reinterpret_cast<Loose*>(out + (first + g) * pitch + x) = sum[g];
}

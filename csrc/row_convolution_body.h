// The register-tiled body of row_convolution.h, included there once for each instruction set.
//
// GCC lowers vector types by the instruction set of the function that it reads them in, before it inlines, so one
// body cannot be shared by inlining: it is compiled anew under MSR_ROW_TARGET with vectors of MSR_ROW_BYTES.
// Each step loads N vectors of neighbouring pixels once and multiplies them by S * G broadcast weights.

template <typename A, int S, int G, int N>
MSR_ROW_TARGET void MSR_ROW_NAME(const RowTask<A>& task, int64_t offset, A* stage) {
  typedef A Vector __attribute__((vector_size(MSR_ROW_BYTES)));
  typedef A Loose __attribute__((vector_size(MSR_ROW_BYTES), aligned(sizeof(A)), may_alias));
  constexpr int L = MSR_ROW_BYTES / sizeof(A);
  Vector sum[S * G][N];
#pragma GCC unroll 16
  for (int i = 0; i < S * G; ++i) {
#pragma GCC unroll 3
    for (int n = 0; n < N; ++n) sum[i][n] = Vector{} + task.bias[i % G];
  }
  for (int y = 0; y < task.taps_y; ++y) {
    const A* plane = task.row[y] + offset;
    const A* weight = task.weight[y];
    for (int64_t c = 0; c < task.channels; ++c, plane += task.pitch) {
      for (int t = 0; t < task.taps_x; ++t, weight += S * G) {
        const int phases = t == 0 ? task.first_phases : S;
        Vector pixels[N];
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) pixels[n] = *reinterpret_cast<const Loose*>(plane + t + n * L);
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s) {
          if (s > 0 && s >= phases) break;
#pragma GCC unroll 16
          for (int g = 0; g < G; ++g) {
#pragma GCC unroll 3
            for (int n = 0; n < N; ++n) sum[s * G + g][n] += pixels[n] * weight[s * G + g];
          }
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < S * G; ++i) {
#pragma GCC unroll 3
    for (int n = 0; n < N; ++n) {
      Vector v = sum[i][n];
      if (task.activation == Activation::relu) v = v < A(0) ? Vector{} : v;
      if (task.activation == Activation::slope) v = v > A(0) ? v : v * task.slope[i % G];
      *reinterpret_cast<Loose*>(stage + (i * N + n) * L) = v;
    }
  }
}

// Kernels with one fault each, and their sound twins: what the shim and the sanitizers must find. A program of its own:
// prints the result of the kernel named by its first argument, with the threads in the order of its second (0, 1, 2).
#include <cstdio>

#include "cuda_shim.h"

namespace {

constexpr int kCount = 64;

// Every thread reads what its neighbour wrote.
template <bool Barrier>
__global__ void neighbours(const float* in, float* out) {
  MSR_SHARED(float, tile, [kCount]);
  tile[threadIdx.x] = in[threadIdx.x];
  if (Barrier) __syncthreads();
  out[threadIdx.x] = tile[(threadIdx.x + 1) % kCount];
}

// The same within warps.
template <bool Barrier>
__global__ void warp_neighbours(const float* in, float* out) {
  MSR_SHARED(float, tile, [kCount]);
  tile[threadIdx.x] = in[threadIdx.x];
  if (Barrier) __syncwarp();
  out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

// A second round that overwrites what slower threads of the first still read.
template <bool Barrier>
__global__ void rounds(const float* in, float* out) {
  MSR_SHARED(float, tile, [kCount]);
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = in[threadIdx.x] + round;
    __syncthreads();
    out[threadIdx.x] += tile[kCount - 1 - threadIdx.x];
    if (Barrier) __syncthreads();
  }
}

__global__ void some_at_the_barrier(const float* in, float* out) {
  if (threadIdx.x < kCount / 2) __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
}

__global__ void two_barriers(const float* in, float* out) {
  if (threadIdx.x < kCount / 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = in[threadIdx.x];
}

// The block's second half is never written.
__global__ void unwritten(const float* in, float* out) {
  MSR_SHARED(float, tile, [kCount]);
  if (threadIdx.x < kCount / 2) tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

template <int Extra>
__global__ void writes_past_the_end(const float* in, float* out) {
  out[threadIdx.x + Extra] = in[threadIdx.x];
}

template <int Extra>
__global__ void writes_past_shared_memory(const float* in, float* out) {
  MSR_SHARED(float, tile, [kCount]);
  float* at = tile;
  at[threadIdx.x + Extra] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = at[threadIdx.x + Extra];
}

// Stays within the memory, but not within the row.
template <int Extra>
__global__ void writes_past_a_row(const float* in, float* out) {
  MSR_SHARED(float, tile, [2][kCount]);
  tile[0][threadIdx.x + Extra] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[0][threadIdx.x];
}

__global__ void reads_negative(const float* in, float* out) { out[threadIdx.x] = in[int(threadIdx.x) - 1]; }

// Sums over a warp by shuffles; each lane ends with the sum of its warp.
__global__ void warp_sums(const float* in, float* out) {
  float sum = in[threadIdx.x];
  for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, half);
  out[threadIdx.x] = sum + __shfl_sync(0xffffffffu, in[threadIdx.x], 3) +
                     __shfl_down_sync(0xffffffffu, in[threadIdx.x], 1) + __shfl_up_sync(0xffffffffu, in[threadIdx.x], 2);
}

__global__ void warp_votes(const float* in, float* out) {
  const unsigned votes = __ballot_sync(0xffffffffu, in[threadIdx.x] >= 30.0f);
  out[threadIdx.x] = float(votes >> 28) + (__any_sync(0xffffffffu, in[threadIdx.x] == 40.0f) ? 100.0f : 0.0f) +
                     (__all_sync(0xffffffffu, in[threadIdx.x] > 31.0f) ? 1000.0f : 0.0f);
}

__global__ void sums(const float* in, float* out) { atomicAdd(out, in[threadIdx.x]); }

using Kernel = void (*)(const float*, float*);

const std::pair<const char*, Kernel> kKernels[] = {
    {"neighbours", &neighbours<true>},
    {"neighbours-faulty", &neighbours<false>},
    {"warp-neighbours", &warp_neighbours<true>},
    {"warp-neighbours-faulty", &warp_neighbours<false>},
    {"rounds", &rounds<true>},
    {"rounds-faulty", &rounds<false>},
    {"some-at-the-barrier", &some_at_the_barrier},
    {"two-barriers", &two_barriers},
    {"unwritten", &unwritten},
    {"past-the-end", &writes_past_the_end<0>},
    {"past-the-end-faulty", &writes_past_the_end<1>},
    {"past-shared-memory", &writes_past_shared_memory<0>},
    {"past-shared-memory-faulty", &writes_past_shared_memory<1>},
    {"past-a-row", &writes_past_a_row<0>},
    {"past-a-row-faulty", &writes_past_a_row<1>},
    {"reads-negative", &reads_negative},
    {"warp-sums", &warp_sums},
    {"warp-votes", &warp_votes},
    {"sums", &sums},
};

}  // namespace

int main(int count, char** words) {
  if (count != 3) return 2;
  std::vector<float> in(kCount), out(kCount);
  for (int n = 0; n < kCount; ++n) in[n] = float(n);
  cuda_shim::machine.order = static_cast<cuda_shim::Order>(std::atoi(words[2]));
  for (const auto& [name, kernel] : kKernels) {
    if (std::strcmp(name, words[1]) != 0) continue;
    try {
      cuda_shim::launch(kernel, dim3(1), dim3(kCount), 0, in.data(), out.data());
    } catch (const std::exception& error) {
      std::printf("%s\n", error.what());
      return 1;
    }
    for (const float value : out) std::printf("%g ", value);
    std::printf("\n");
    return 0;
  }
  return 2;
}

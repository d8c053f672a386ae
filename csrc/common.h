// What every kernel shares: dtypes, checks, layouts, the choice of CPU instructions and the launch of CUDA kernels.
// Only PyTorch's stable ABI is used (torch >= 2.10): one binary serves every Python and every later torch.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "registration.h"

// Maths that CPU and CUDA share. Always inlined on the CPU, so that it is compiled for the instructions of its caller.
#if defined(__CUDACC__)
#define MSR_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MSR_HOST_DEVICE inline __attribute__((always_inline))
#endif

#define MSR_CHECK(condition, ...) STD_TORCH_CHECK(condition, __VA_ARGS__)

namespace msr {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// ---- dtypes --------------------------------------------------------------------------------------------------------

// Coordinates, weights and sums are float32 whatever the features' dtype; float64 only for float64.
template <typename T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <typename T>
using compute_t = typename Compute<T>::type;

inline ScalarType compute_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <typename T>
struct Tag {
  using type = T;
};

// Calls body(Tag<T>{}) with the C++ type of `type`.
template <typename Body>
void dispatch_floating(ScalarType type, const char* op, const Body& body) {
  switch (type) {
    case ScalarType::Double:
      return body(Tag<double>{});
    case ScalarType::Float:
      return body(Tag<float>{});
    case ScalarType::Half:
      return body(Tag<Half>{});
    case ScalarType::BFloat16:
      return body(Tag<BFloat16>{});
    default:
      MSR_CHECK(false, op, " takes float16, bfloat16, float32 or float64, got ", torch::headeronly::toString(type));
  }
}

// ---- tensors -------------------------------------------------------------------------------------------------------

inline std::string describe(const Tensor& tensor) {
  std::ostringstream text;
  text << "(";
  for (int64_t d = 0; d < tensor.dim(); ++d) text << (d ? ", " : "") << tensor.size(d);
  text << ") " << torch::headeronly::toString(tensor.scalar_type());
  return text.str();
}

// The rule of msr/ops/_layout.py: channels lie next to each other and the tensor is not plainly contiguous.
inline bool is_channels_last(const Tensor& x) {
  return x.size(1) > 1 && x.stride(1) == 1 && !x.is_contiguous();
}

inline MemoryFormat memory_format(const Tensor& x) {
  return is_channels_last(x) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// What torch makes, a new tensor of so many elements. Its stable ABI says that it failed and not why; what can fail here
// is memory, and callers who halve their work when there is too little must be able to tell.
template <typename Make>
Tensor made(double count, const Make& make) {
  try {
    return make();
  } catch (const std::exception&) {
    MSR_CHECK(false, "not enough memory for a tensor of ", count, " elements");
    throw;
  }
}

// A new tensor on the device of `like`; its values are whatever the memory held.
inline Tensor empty(const Tensor& like, std::vector<int64_t> sizes, ScalarType type,
                    MemoryFormat format = MemoryFormat::Contiguous) {
  const double count = std::accumulate(sizes.begin(), sizes.end(), 1.0, std::multiplies<double>());
  return made(count, [&] {
    return torch::stable::empty(sizes, type, std::nullopt, like.device(), std::nullopt, format);
  });
}

inline Tensor to_type(const Tensor& x, ScalarType type) {
  return x.scalar_type() == type ? x : made(static_cast<double>(x.numel()), [&] { return torch::stable::to(x, type); });
}

// x itself if it is laid out so, else a copy.
inline Tensor as_contiguous(const Tensor& x, MemoryFormat format = MemoryFormat::Contiguous) {
  return made(static_cast<double>(x.numel()), [&] { return torch::stable::contiguous(x, format); });
}

// x itself where its channels (channels_last) or its columns lie next to each other, any other strides allowed; else a copy.
inline Tensor with_unit_stride(const Tensor& x) {
  return is_channels_last(x) || x.stride(3) == 1 ? x : as_contiguous(x);
}

struct Strides {
  int64_t b, c, h, w;
};

inline Strides strides(const Tensor& x) { return {x.stride(0), x.stride(1), x.stride(2), x.stride(3)}; }

// ---- CPU -----------------------------------------------------------------------------------------------------------

enum class Simd { baseline, avx2, avx512 };

// The instructions to use, found out at run time: the same binary runs on any machine of its architecture.
// MSR_SIMD=baseline|avx2 asks for less than the machine has (to test the other paths).
inline Simd simd() {
#if defined(__x86_64__)
  static const Simd level = [] {
    const char* limit = std::getenv("MSR_SIMD");
    const bool baseline = limit && !std::strcmp(limit, "baseline");
    const bool no_512 = baseline || (limit && !std::strcmp(limit, "avx2"));
    __builtin_cpu_init();
    if (!no_512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
      return Simd::avx512;
    if (!baseline && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Simd::avx2;
    return Simd::baseline;
  }();
  return level;
#else
  return Simd::baseline;
#endif
}

#if defined(__x86_64__)
#define MSR_AVX2 __attribute__((target("avx2,fma,f16c"), flatten, noinline))
#define MSR_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,prefer-vector-width=512"), flatten, noinline))
template <typename Body>
MSR_AVX2 void run_avx2(const Body& body) {
  body();
}
template <typename Body>
MSR_AVX512 void run_avx512(const Body& body) {
  body();
}
#endif

// Runs body() compiled for the widest instructions of this machine. Whatever body calls is inlined into it ("flatten"), so
// plain loops over plain arrays are enough: the compiler vectorises them once for each level.
template <typename Body>
void with_simd(const Body& body) {
#if defined(__x86_64__)
  if (simd() == Simd::avx512) return run_avx512(body);
  if (simd() == Simd::avx2) return run_avx2(body);
#endif
  body();
}

// body(begin, end) over the parts of [0, count), each worth at least a few ten thousand operations, on torch's threads.
template <typename Body>
void parallel(int64_t count, int64_t operations_each, const Body& body) {
  if (count <= 0) return;
  const int64_t grain = 32768 / (operations_each > 0 ? operations_each : 1);
  torch::stable::parallel_for(0, count, grain > 0 ? grain : 1, body);
}

// The dtype conversions of the CPU kernels' inner loops, written so that the compiler can vectorise them.
template <typename T>
MSR_HOST_DEVICE compute_t<T> load(const T& value) {
  return static_cast<compute_t<T>>(value);
}
template <typename T>
MSR_HOST_DEVICE T store(compute_t<T> value) {
  return static_cast<T>(value);
}

}  // namespace msr

// ---- CUDA ----------------------------------------------------------------------------------------------------------

#if defined(__CUDACC__) || defined(MSR_CUDA_SHIM)

// Kernels also compile as C++ against tests/cuda_shim (MSR_CUDA_SHIM), which runs them on the CPU; so they declare shared
// memory by MSR_SHARED(float, tile, [8][32]) for `__shared__ float tile[8][32]`, and are launched by msr::launch.
#if defined(MSR_CUDA_SHIM)
#include "cuda_shim.h"
#else
#include <cuda_runtime.h>
#define MSR_SHARED(type, name, ...) __shared__ type name __VA_ARGS__
// Declared here because torch's header shows it only to builds against a CUDA torch, and kernels must compile without one.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);
#endif

namespace msr {

constexpr int kThreads = 256;

// Blocks of kThreads that cover `count`; kernels stride over the grid, so fewer blocks than that are fine too.
inline dim3 blocks_for(int64_t count) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  return dim3(static_cast<unsigned>(blocks < (1 << 30) ? blocks : (1 << 30)));
}

// The shared memory that the launch asked for in bytes.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(MSR_CUDA_SHIM)
  return reinterpret_cast<T*>(cuda_shim::machine.dynamic);
#else
  extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
  return reinterpret_cast<T*>(dynamic_shared_bytes);
#endif
}

// The one way to launch a kernel: on the device of `where` and its current stream, nothing for an empty grid, and errors
// raised here instead of at a later call.
#if defined(MSR_CUDA_SHIM)
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, const Tensor&,
            Arguments... arguments) {
  cuda_shim::launch(kernel, grid, block, shared_bytes, arguments...);
}
#else
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, const Tensor& where,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const int32_t device = where.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  std::tuple<Parameters...> values(arguments...);
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {static_cast<void*>(&value)...};
        const cudaError_t error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers,
                                                   shared_bytes, static_cast<cudaStream_t>(stream));
        MSR_CHECK(error != cudaErrorNoKernelImageForDevice,
                  "msr's CUDA kernels were compiled for other GPUs than this one; install msr anew on this machine, or "
                  "set MSR_CUDA=0");
        MSR_CHECK(error == cudaSuccess, "CUDA launch failed: ", cudaGetErrorString(error));
      },
      values);
}
#endif

}  // namespace msr

#endif

// What the fused convolutions share on every device: the activation, and the checks of their small tensors.
#pragma once

#include <optional>

#include "common.h"

namespace msr {

// `slope` covers leaky_relu (one constant) and prelu (one slope, or one for each channel).
enum class Activation : int { none, relu, slope };

constexpr double kLeakySlope = 0.1;  // LEAKY_SLOPE of msr/ops/_convolution.py

inline Activation parse_activation(const std::optional<std::string>& name) {
  if (!name) return Activation::none;
  if (*name == "relu") return Activation::relu;
  MSR_CHECK(*name == "leaky_relu" || *name == "prelu", "activation is relu, leaky_relu or prelu, got ", *name);
  return Activation::slope;
}

// NaN stays NaN, and relu of minus infinity is zero (which a slope of zero would turn into NaN).
template <typename A>
MSR_HOST_DEVICE A activate(A value, Activation activation, A slope) {
  if (activation == Activation::relu) return value < A(0) ? A(0) : value;
  if (activation == Activation::slope) return value > A(0) ? value : value * slope;
  return value;
}

// The rule of `in_layout_of` in msr/ops/_convolution.py.
inline MemoryFormat output_format(const Tensor& input, int64_t out_channels) {
  return out_channels > 1 ? memory_format(input) : MemoryFormat::Contiguous;
}

inline void check_vector(const char* name, const std::optional<Tensor>& vector, int64_t channels, bool or_one,
                         const Tensor& like) {
  if (!vector) return;
  MSR_CHECK(vector->dim() == 1 && (vector->size(0) == channels || (or_one && vector->size(0) == 1)) &&
                vector->scalar_type() == like.scalar_type(),
            name, " has ", channels, " values of the input's dtype, got ", describe(*vector));
}

// What a CUDA kernel needs of bias and activation.
template <typename T>
struct Vectors {
  const T* bias;   // null: zeros
  const T* slope;  // null: kLeakySlope; stride 0 where one serves all channels
  int64_t bias_stride, slope_stride;
  Activation activation;
};

template <typename T>
Vectors<T> vectors_of(const std::optional<Tensor>& bias, const std::optional<std::string>& activation,
                      const std::optional<Tensor>& prelu_weight) {
  const auto pointer = [](const std::optional<Tensor>& vector) {
    return vector ? static_cast<const T*>(vector->const_data_ptr()) : nullptr;
  };
  const bool one_slope = !prelu_weight || prelu_weight->size(0) == 1;
  return {pointer(bias), pointer(prelu_weight), bias ? bias->stride(0) : 0, one_slope ? 0 : prelu_weight->stride(0),
          parse_activation(activation)};
}

}  // namespace msr

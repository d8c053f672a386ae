// How kernels are given to PyTorch: MSR_BOX in place of TORCH_BOX.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>
#include <string>

namespace msr {

// A string argument. TORCH_BOX of torch 2.10 to 2.13 takes std::string by way of an object that it never deletes (PyTorch issue
// 191340): 48 bytes are lost a call, and in a long run such remainders keep the heap from shrinking. With MSR_BOX strings
// arrive as words.
struct Word {
  std::string text;
};

}  // namespace msr

template <>
struct torch::stable::detail::ToImpl<msr::Word> {
  static msr::Word call(StableIValue value, uint64_t, bool) {
    const auto handle = torch::stable::detail::to<StringHandle>(value);
    size_t length = 0;
    const char* data = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    msr::Word word{std::string(data, length)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return word;
  }
};

namespace msr {

template <typename T>
struct Boxed {
  using type = T;
};
template <>
struct Boxed<const std::string&> {
  using type = const Word&;
};
template <>
struct Boxed<std::optional<std::string>> {
  using type = std::optional<Word>;
};

template <typename T>
const T& unworded(const T& argument) {
  return argument;
}
inline const std::string& unworded(const Word& word) { return word.text; }
inline std::optional<std::string> unworded(const std::optional<Word>& word) {
  return word ? std::optional(word->text) : std::nullopt;
}

template <auto function>
struct Kernel;
template <typename Result, typename... Arguments, Result (*function)(Arguments...)>
struct Kernel<function> {
  static Result call(typename Boxed<Arguments>::type... arguments) { return function(unworded(arguments)...); }
};

}  // namespace msr

#define MSR_BOX(function) TORCH_BOX((&msr::Kernel<function>::call))

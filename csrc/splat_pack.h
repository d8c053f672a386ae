// What splat on the CPU works with: memory that is kept, and blocks of pixels whose channels lie next to each other,
// whatever the layout and the dtype of the tensor that they come from.
#pragma once

#include "splat.h"

#include <algorithm>
#include <type_traits>

namespace msr::splat {
namespace {

constexpr int64_t kBlock = 128;  // pixels that are packed at once

// A vector whose memory the thread keeps for its next call, unless it is large: fresh pages cost more than what is written
// to them here. Elements are what they were before.
template <typename T>
struct Kept {
  std::vector<T> values;

  explicit Kept(int64_t count) {
    values.swap(spare());
    values.resize(static_cast<size_t>(count));
  }
  Kept(const Kept&) = delete;
  ~Kept() {
    constexpr size_t kMost = (size_t{8} << 20) / sizeof(T);
    if (values.capacity() <= kMost) values.swap(spare());
  }

 private:
  static std::vector<T>& spare() {
    static thread_local std::vector<T> memory;
    return memory;
  }
};

// How a tensor's pixels and channels lie: both layouts have one distance between pixels.
struct Layout {
  int64_t image, channel, pixel;
};

inline Layout layout(const Sizes& s, MemoryFormat format) {
  if (format == MemoryFormat::ChannelsLast) return {s.channels * s.pixels(), 1, s.channels};
  return {s.channels * s.pixels(), s.pixels(), 1};
}

// to[column * to_pitch + row] = from[row * from_pitch + column]; floats four by four in vectors.
template <typename C>
MSR_HOST_DEVICE void transpose(const C* from, int64_t from_pitch, int64_t rows, int64_t columns, C* to, int64_t to_pitch) {
  int64_t whole_rows = 0, whole_columns = 0;
  if constexpr (std::is_same_v<C, float>) {
    typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
    whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
    for (int64_t row = 0; row < whole_rows; row += 4) {
      for (int64_t column = 0; column < whole_columns; column += 4) {
        const Four* place[4];
        for (int n = 0; n < 4; ++n) place[n] = reinterpret_cast<const Four*>(from + (row + n) * from_pitch + column);
        const Four a = *place[0], b = *place[1], c = *place[2], d = *place[3];
        const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
        const Four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        float* const out = to + column * to_pitch + row;
        *reinterpret_cast<Four*>(out) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
        *reinterpret_cast<Four*>(out + to_pitch) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
        *reinterpret_cast<Four*>(out + 2 * to_pitch) = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
        *reinterpret_cast<Four*>(out + 3 * to_pitch) = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
      }
    }
  }
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = row < whole_rows ? whole_columns : 0; column < columns; ++column)
      to[column * to_pitch + row] = from[row * from_pitch + column];
}

constexpr int64_t kConverted = 16;  // planes that are converted at once before or after they are transposed

// Copies `channels` values of up to kBlock pixels next to each other, `channels` from pixel to pixel.
template <typename T>
MSR_HOST_DEVICE void pack(const T* from, const Layout& layout, int64_t channels, int64_t count, compute_t<T>* to) {
  using C = compute_t<T>;
  if (layout.channel == 1) {
    for (int64_t u = 0; u < count; ++u)
      for (int64_t c = 0; c < channels; ++c) to[u * channels + c] = load(from[u * layout.pixel + c]);
  } else if constexpr (std::is_same_v<T, C>) {
    transpose(from, layout.channel, channels, count, to, channels);
  } else {
    C planes[kConverted * kBlock];
    for (int64_t first = 0; first < channels; first += kConverted) {
      const int64_t some = std::min(kConverted, channels - first);
      for (int64_t c = 0; c < some; ++c)
        for (int64_t u = 0; u < count; ++u) planes[c * kBlock + u] = load(from[(first + c) * layout.channel + u]);
      transpose(planes, kBlock, some, count, to + first, channels);
    }
  }
}

template <typename T>
MSR_HOST_DEVICE void unpack(const compute_t<T>* from, int64_t channels, int64_t count, T* to, const Layout& layout) {
  using C = compute_t<T>;
  if (layout.channel == 1) {
    for (int64_t u = 0; u < count; ++u)
      for (int64_t c = 0; c < channels; ++c) to[u * layout.pixel + c] = store<T>(from[u * channels + c]);
  } else if constexpr (std::is_same_v<T, C>) {
    transpose(from, channels, count, channels, to, layout.channel);
  } else {
    C planes[kConverted * kBlock];
    for (int64_t first = 0; first < channels; first += kConverted) {
      const int64_t some = std::min(kConverted, channels - first);
      transpose(from + first, channels, count, some, planes, kBlock);
      for (int64_t c = 0; c < some; ++c)
        for (int64_t u = 0; u < count; ++u) to[(first + c) * layout.channel + u] = store<T>(planes[c * kBlock + u]);
    }
  }
}

}  // namespace
}  // namespace msr::splat

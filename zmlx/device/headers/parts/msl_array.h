// metal::array (specification, chapter 2.13).
#pragma once

namespace metal {

template <typename T, size_t N>
struct array {
  T elements[N];
  typedef T value_type;
  ZM_MEMBER constexpr size_t size() const {
    return N;
  }
  ZM_MEMBER constexpr bool empty() const {
    return N == 0;
  }
  ZM_MEMBER constexpr T& operator[](size_t i) {
    return elements[i];
  }
  ZM_MEMBER constexpr const T& operator[](size_t i) const {
    return elements[i];
  }
  ZM_MEMBER constexpr T* data() {
    return elements;
  }
  ZM_MEMBER constexpr const T* data() const {
    return elements;
  }
  ZM_MEMBER constexpr T* begin() {
    return elements;
  }
  ZM_MEMBER constexpr const T* begin() const {
    return elements;
  }
  ZM_MEMBER constexpr T* end() {
    return elements + N;
  }
  ZM_MEMBER constexpr const T* end() const {
    return elements + N;
  }
  ZM_MEMBER constexpr T& front() {
    return elements[0];
  }
  ZM_MEMBER constexpr T& back() {
    return elements[N - 1];
  }
  ZM_MEMBER void fill(const T& value) {
    for (size_t i = 0; i < N; ++i) elements[i] = value;
  }
};

}  // namespace metal

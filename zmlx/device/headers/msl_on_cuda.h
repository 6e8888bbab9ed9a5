// Metal Shading Language's names in CUDA C++, put in front of a kernel's MSL text.
//
// NVRTC compiles it at run time, behind cuda_types.h or MLX's own headers (half and bfloat16 types);
// msl_wide_cuda.h follows. Declares what Metal's standard library has and kernels here use; other names start with zm_.
#define ZM_INLINE static __device__ __forceinline__

// `device` and `constant` are words of CUDA's own attributes; generated kernels name neither.
#define thread
#define inline __device__ __forceinline__
#define bfloat16_t __nv_bfloat16
#define ZM_CALLED static __device__ __noinline__
#define ZMLX_OFF_METAL 1
#define ZMLX_LOOP _Pragma("unroll 1")
#define ZMLX_UNROLL _Pragma("unroll")

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fc00000)
#endif
#ifndef MAXFLOAT
#define MAXFLOAT 3.40282347e+38f
#endif

#define thread_position_in_grid zm_thread_position()
ZM_INLINE uint3 zm_thread_position() {
  return make_uint3(
      blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y,
      blockIdx.z * blockDim.z + threadIdx.z);
}

template <typename To, typename From>
ZM_INLINE constexpr To as_type(From value) {
  static_assert(sizeof(To) == sizeof(From), "as_type needs types of one size");
  if constexpr (__is_trivially_copyable(To) && __is_trivially_copyable(From)) {
    return __builtin_bit_cast(To, value);
  } else {  // a vector, which assigns by itself
    To result{};
    memcpy((void*)&result, (const void*)&value, sizeof(To));
    return result;
  }
}

template <typename T>
constexpr bool zm_is_half = false;
template <>
constexpr bool zm_is_half<__half> = true;
template <>
constexpr bool zm_is_half<__nv_bfloat16> = true;
// A half into a float in place: of its many conversions CUDA would know none to take.
#define ZM_IN_PLACE(OP)                                     \
  ZM_INLINE float& operator OP(float& to, __half by) {        \
    return to OP float(by);                                   \
  }                                                           \
  ZM_INLINE float& operator OP(float& to, __nv_bfloat16 by) { \
    return to OP float(by);                                   \
  }
ZM_IN_PLACE(+=)
ZM_IN_PLACE(-=)
ZM_IN_PLACE(*=)
ZM_IN_PLACE(/=)
#undef ZM_IN_PLACE
// Vectors, and what stands for one: the functions of numbers leave them to their own.
template <typename T>
constexpr bool zm_is_vector = false;
template <bool C>
struct zm_unless {};
template <>
struct zm_unless<false> {
  typedef int type;
};

ZM_INLINE float zm_reciprocal(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// The larger and the smaller one, or NaN where one of them is.
ZM_INLINE float zm_max(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
ZM_INLINE float zm_min(float a, float b) {
  float r;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

#ifdef ZM_HALVES
// Every result has 16 bits: these are off by at most 2^-16 of their value, where a half rounds by up
// to 2^-11, and take 2 to 10 instructions where CUDA's own take 8 to 16. What is below float32's
// normal range counts as zero.
ZM_INLINE float zm_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
ZM_INLINE float zm_exp(float x) {
  return zm_exp2(x * 1.44269504f);
}
ZM_INLINE float zm_tanh_beside_one(float x) {
  return ::fmaf(-2.0f, zm_reciprocal(1.0f + zm_exp2(x * 2.88539008f)), 1.0f);
}
ZM_INLINE float zm_tanh(float x) {
  const float s = x * x;
  return s < 0.01f ? ::fmaf(x * s, -0.333333333f, x) : zm_tanh_beside_one(x);
}
#endif

namespace metal {

#define ZM_CALL(NAME, FUNCTION)      \
  ZM_INLINE float NAME(float x) {    \
    return ::FUNCTION(x);            \
  }
#ifndef ZM_HALVES
ZM_CALL(exp, expf)
ZM_CALL(tanh, tanhf)
#endif
ZM_CALL(log, logf)
ZM_CALL(log2, log2f)
ZM_CALL(log10, log10f)
ZM_CALL(sin, sinf)
ZM_CALL(cos, cosf)
ZM_CALL(tan, tanf)
ZM_CALL(sinh, sinhf)
ZM_CALL(cosh, coshf)
ZM_CALL(asin, asinf)
ZM_CALL(acos, acosf)
ZM_CALL(atan, atanf)
ZM_CALL(asinh, asinhf)
ZM_CALL(acosh, acoshf)
ZM_CALL(atanh, atanhf)
ZM_CALL(sqrt, sqrtf)
ZM_CALL(rsqrt, rsqrtf)
ZM_CALL(floor, floorf)
ZM_CALL(ceil, ceilf)
ZM_CALL(trunc, truncf)
ZM_CALL(rint, rintf)
ZM_CALL(abs, fabsf)
ZM_CALL(fabs, fabsf)
#undef ZM_CALL
#ifdef ZM_HALVES
ZM_INLINE float exp(float x) {
  return zm_exp(x);
}
ZM_INLINE float tanh(float x) {
  return zm_tanh(x);
}
#endif
ZM_INLINE float pow(float x, float y) {
  return ::powf(x, y);
}
ZM_INLINE float atan2(float y, float x) {
  return ::atan2f(y, x);
}
ZM_INLINE float fmod(float x, float y) {
  return ::fmodf(x, y);
}
ZM_INLINE float fma(float a, float b, float c) {
  return ::fmaf(a, b, c);
}
ZM_INLINE float copysign(float x, float y) {
  return ::copysignf(x, y);
}
ZM_INLINE float ldexp(float x, int exponent) {
  return ::ldexpf(x, exponent);
}
template <typename T, typename zm_unless<zm_is_vector<T>>::type = 0>
ZM_INLINE T max(T x, T y) {
  if constexpr (zm_is_half<T>) {
    return T(::fmaxf(float(x), float(y)));
  } else {
    return x < y ? y : x;
  }
}
template <typename T, typename zm_unless<zm_is_vector<T>>::type = 0>
ZM_INLINE T min(T x, T y) {
  if constexpr (zm_is_half<T>) {
    return T(::fminf(float(x), float(y)));
  } else {
    return y < x ? y : x;
  }
}
template <typename T, typename zm_unless<zm_is_vector<T>>::type = 0>
ZM_INLINE T clamp(T x, T low, T high) {
  return min(max(x, low), high);
}
// Of a float that is no number, Metal's is `low`.
ZM_INLINE float clamp(float x, float low, float high) {
  return ::fminf(::fmaxf(x, low), high);
}
namespace precise {
using namespace metal;
}

}  // namespace metal

#define ZMLX_NATIVE_EXPM1
ZM_INLINE float zmlx_expm1(float x) {
  return ::expm1f(x);
}
#define ZMLX_NATIVE_LOG1P
ZM_INLINE float zmlx_log1p(float x) {
  return ::log1pf(x);
}
#define ZMLX_NATIVE_ERF
ZM_INLINE float zmlx_erf(float x) {
  return ::erff(x);
}
#define ZMLX_NATIVE_ERFINV
ZM_INLINE float zmlx_erfinv(float x) {
  return ::erfinvf(x);
}

// log1p of an exponential in [0, 1], without the branches for what lies outside: minimax polynomials,
// found by Remez' algorithm.
#ifdef ZM_HALVES
ZM_INLINE float zm_log1p_unit(float e) {
  float p = ::fmaf(0.0141410234f, e, -0.0664017989f);
  p = ::fmaf(p, e, 0.149223874f);
  p = ::fmaf(p, e, -0.235038603f);
  p = ::fmaf(p, e, 0.33109449f);
  p = ::fmaf(p, e, -0.499869656f);
  p = ::fmaf(p, e, 0.999998732f);
  return p * e;
}
#else
// Above 1/2 it is log(2) + log1p of half the rest, which lies in [-1/4, 0].
ZM_INLINE float zm_log1p_unit(float e) {
  const bool upper = e > 0.5f;
  const float f = upper ? ::fmaf(0.5f, e, -0.5f) : e;
  float p = ::fmaf(0.044909656f, f, -0.104483359f);
  p = ::fmaf(p, f, 0.131622326f);
  p = ::fmaf(p, f, -0.14482061f);
  p = ::fmaf(p, f, 0.16647767f);
  p = ::fmaf(p, f, -0.199906068f);
  p = ::fmaf(p, f, 0.250000546f);
  p = ::fmaf(p, f, -0.333334544f);
  p = ::fmaf(p, f, 0.500000008f);
  const float low = ::fmaf(-(f * f), p, f);
  return upper ? low + 0.693147181f : low;
}
#endif
#define ZMLX_NATIVE_LOGADDEXP
ZM_INLINE float zmlx_logaddexp(float x, float y) {
  const float gap = (x == y) ? 0.0f : ::fabsf(x - y);
  const float top = (x > y || x != x) ? x : y;
  return top + zm_log1p_unit(metal::exp(-gap));
}

#define ZMLX_NATIVE_SIGMOID
#ifdef ZM_HALVES
ZM_INLINE float zmlx_sigmoid(float x) {
  return zm_reciprocal(1.0f + zm_exp2(x * -1.44269504f));
}
#define ZMLX_NATIVE_TANH_BESIDE_ONE
ZM_INLINE float zmlx_tanh_beside_one(float x) {
  return zm_tanh_beside_one(x);
}
#else
// n / (1 + e) for e in [0, 1]: no division here meets the cases that CUDA's own one branches for.
ZM_INLINE float zmlx_sigmoid(float x) {
  const float e = ::expf(-::fabsf(x));
  const float d = 1.0f + e;
  float r = zm_reciprocal(d);
  r = ::fmaf(r, ::fmaf(-d, r, 1.0f), r);
  const float n = x < 0.0f ? e : 1.0f;
  const float q = n * r;
  return ::fmaf(r, ::fmaf(-d, q, n), q);
}
#endif

// numerics="mlx": CUDA contracts products into fma unless told otherwise, and MLX's own kernels there
// take the device's reciprocal root.
#define ZMLX_NATIVE_EXACT_MULTIPLY
ZM_INLINE float zmlx_exact_multiply(float x, float y) {
  return __fmul_rn(x, y);
}
#define ZMLX_NATIVE_EXACT_RSQRT
template <typename T>
ZM_INLINE float zmlx_exact_rsqrt(float x) {
  return float(T(::rsqrtf(x)));
}

// Two results as the halves of a word, converted by one instruction.
ZM_INLINE uint zm_pair(const __nv_bfloat16*, float low, float high) {
  uint word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
ZM_INLINE uint zm_pair(const __half*, float low, float high) {
  uint word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// One of the two in a word, as the float of its value.
ZM_INLINE float zm_of_pair(const __nv_bfloat16*, uint word, bool high) {
  return __uint_as_float(high ? word & 0xffff0000u : word << 16);
}
ZM_INLINE float zm_of_pair(const __half*, uint word, bool high) {
  const __half2 both = *reinterpret_cast<const __half2*>(&word);
  return high ? __high2float(both) : __low2float(both);
}

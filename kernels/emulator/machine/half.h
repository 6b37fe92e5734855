// Replaces CUDA's cuda_fp16.h, as far as kernels need it: half (IEEE binary16) and half2.
//
// Arithmetic converts to float32 and rounds the result to half: to nearest, ties to even. For a
// single +, -, * or / this equals rounding once, because float32 has enough significant bits.
#pragma once

#include "shim.h"

namespace emulator {

inline unsigned short half_of(float x) {
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return 0x7fff;  // every NaN becomes the same one
    if (size >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
    if (size < 0x38800000) {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
        return sign | (__float_as_uint(__uint_as_float(size) + 0.5f) - __float_as_uint(0.5f));
    }
    size += 0xfff + (size >> 13 & 1);  // round off the 13 lowest bits
    return sign | ((size >> 13) - (112 << 10));  // 112: the exponents' biases are 127 and 15
}

inline float float_of(unsigned short half) {
    unsigned sign = (half & 0x8000u) << 16, size = (half & 0x7fffu) << 13;
    if (size >= 0x7c00u << 13) return __uint_as_float(sign | 0x7f800000 | size);
    if (size < 0x400u << 13) {  // a multiple of 2^-24
        return __uint_as_float(sign | __float_as_uint((half & 0x3ffu) * 0x1p-24f));
    }
    return __uint_as_float(sign | (size + (112u << 23)));  // 112: as above
}

}  // namespace emulator

struct __half {
    unsigned short bits;
    __half() = default;
    __half(float x) : bits(emulator::half_of(x)) {}
    operator float() const { return emulator::float_of(bits); }
};
using half = __half;
struct __align__(4) __half2 { half x, y; };
using half2 = __half2;

namespace emulator {
template <> constexpr bool is_floating<half> = true;
}

static inline half __float2half(float x) { return x; }
static inline half __float2half_rn(float x) { return x; }
static inline float __half2float(half x) { return x; }
static inline half2 __halves2half2(half x, half y) { return {x, y}; }
static inline half2 __floats2half2_rn(float x, float y) { return {x, y}; }
static inline float2 __half22float2(half2 v) { return {v.x, v.y}; }

static inline half operator+(half a, half b) { return float(a) + float(b); }
static inline half operator-(half a, half b) { return float(a) - float(b); }
static inline half operator*(half a, half b) { return float(a) * float(b); }
static inline half operator/(half a, half b) { return float(a) / float(b); }
static inline half2 operator+(half2 a, half2 b) { return {a.x + b.x, a.y + b.y}; }
static inline half2 operator-(half2 a, half2 b) { return {a.x - b.x, a.y - b.y}; }
static inline half2 operator*(half2 a, half2 b) { return {a.x * b.x, a.y * b.y}; }

// The bits of half (IEEE binary16) and bfloat16, the upper half of a float32: rounding.
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

// Rounded to nearest, ties to even; every NaN becomes the same one.
inline unsigned short bfloat16_of(float x) {
    unsigned all = __float_as_uint(x);
    return x != x ? 0x7fff : (all + 0x7fff + (all >> 16 & 1)) >> 16;
}

}  // namespace emulator

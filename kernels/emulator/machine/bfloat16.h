// Replaces CUDA's cuda_bf16.h, as far as kernels need it: bfloat16, the upper half of a float32.
#pragma once

#include "shim.h"

struct __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) : bits(rounded(x)) {}
    operator float() const { return __uint_as_float((unsigned)bits << 16); }

    // Rounds to nearest, ties to even; every NaN becomes the same one.
    static unsigned short rounded(float x) {
        unsigned all = __float_as_uint(x);
        return x != x ? 0x7fff : (all + 0x7fff + (all >> 16 & 1)) >> 16;
    }
};

static inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
static inline float __bfloat162float(__nv_bfloat16 x) { return x; }

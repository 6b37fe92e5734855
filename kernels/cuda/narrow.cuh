// The 16-bit numbers that tensor cores read. half: 11 significant bits, none above 65504 or below
// 6e-8. With -DBF16 bfloat16: 8 significant bits and the range of float32.
#include "ptx.cuh"

struct Half {
    unsigned short bits;
    __device__ operator float() const { return from_half(bits); }
};

#ifdef BF16
#if __CUDA_ARCH__ < 800
#error "BF16 needs a GPU of compute capability 8.0 (sm_80) or above: compile without -DBF16"
#endif
struct Bfloat16 {
    unsigned short bits;
    __device__ operator float() const { return from_bfloat16(bits); }
};
typedef Bfloat16 Narrow;
__device__ inline Narrow narrow(float x) { return {to_bfloat16(x)}; }
#else
typedef Half Narrow;
__device__ inline Narrow narrow(float x) { return {to_half(x)}; }
#endif

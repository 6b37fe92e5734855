// The 16-bit numbers that tensor cores read. half: 11 significant bits, none above 65504 or below
// 6e-8. With -DBF16 bfloat16: 8 significant bits and the range of float32.
#ifdef BF16
#if __CUDA_ARCH__ < 800
#error "BF16 needs a GPU of compute capability 8.0 (sm_80) or above: compile without -DBF16"
#endif
#include <cuda_bf16.h>
typedef __nv_bfloat16 Narrow;
__device__ inline Narrow narrow(float x) { return __float2bfloat16(x); }
#else
#include <cuda_fp16.h>
typedef half Narrow;
__device__ inline Narrow narrow(float x) { return __float2half(x); }
#endif

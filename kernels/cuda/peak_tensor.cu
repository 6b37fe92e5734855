// What a card's tensor cores reach at most: a loop of nothing but products of half, for gpucheck.
#include "ptx.cuh"

// Each warp adds a b to eight 16 x 8 sums in every round, with a = factor and b = 1 everywhere.
// y [blocks * warps, 16, 8]: one of the sums, 16 factor rounds everywhere. The i-th starts at i step:
// the compiler does not know that step is 0, and that one sum would do.
extern "C" __global__ void __launch_bounds__(128)
multiply_add_tensor(float* y, float factor, float step, int rounds) {
    unsigned two_factors = to_half(factor) * 0x10001u, two_ones = to_half(1.0f) * 0x10001u;
    unsigned a[4] = {two_factors, two_factors, two_factors, two_factors};
    unsigned b[2] = {two_ones, two_ones};
    float sums[8][4];
#pragma unroll
    for (int i = 0; i < 32; i++) sums[i / 4][i % 4] = i / 4 * step;
    for (int r = 0; r < rounds; r++) {
#pragma unroll
        for (int i = 0; i < 8; i++) mma_m16n8k16_f16(sums[i], a, b);
    }
    float* mine = y + 4 * (blockIdx.x * blockDim.x + threadIdx.x);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        mine[k] = sums[0][k];
#pragma unroll
        for (int i = 1; i < 8; i++) {  // so that no sum is left out by the compiler
            if (sums[i][k] != sums[0][k]) mine[k] = -1.0f;
        }
    }
}

// What a card's tensor cores reach at most: a loop of nothing but products of half, for gpucheck.
#include <mma.h>

using namespace nvcuda::wmma;

// Each warp adds a b to four 16 x 16 sums in every round, with a = factor and b = 1 everywhere.
// y [blocks * warps, 16, 16]: the last of the sums, 16 factor rounds everywhere. The i-th starts at
// i step: the compiler does not know that step is 0, and that one sum would do.
extern "C" __global__ void __launch_bounds__(128)
multiply_add_tensor(float* y, float factor, float step, int rounds) {
    fragment<matrix_a, 16, 16, 16, half, row_major> a;
    fragment<matrix_b, 16, 16, 16, half, col_major> b;
    fragment<accumulator, 16, 16, 16, float> sums[4];
    fill_fragment(a, __float2half(factor));
    fill_fragment(b, __float2half(1.0f));
#pragma unroll
    for (int i = 0; i < 4; i++) fill_fragment(sums[i], i * step);
    for (int r = 0; r < rounds; r++) {
#pragma unroll
        for (int i = 0; i < 4; i++) mma_sync(sums[i], a, b, sums[i]);
    }
#pragma unroll
    for (int i = 1; i < 4; i++) {  // so that no sum is left out by the compiler
        for (int k = 0; k < sums[0].num_elements; k++) {
            sums[0].x[k] = sums[0].x[k] == sums[i].x[k] ? sums[i].x[k] : -1.0f;
        }
    }
    int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    store_matrix_sync(y + 256 * warp, sums[0], 16, mem_row_major);
}

// The register tile: 64 x 64 results for each block of 256 threads, 4 x 4 of them for each thread.
// conv4_registers.cu tells why it is built like this; a problem P is as in convolution.cuh.

#define TILE 64
#define DEPTH 16
#define THREADS 256
#include "fetch.cuh"

template <class P>
__device__ void put(const Fetch<P>& from, float (*a)[TILE + 4], float (*b)[TILE]) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int at = threadIdx.x + i * THREADS;
        a[at % DEPTH][at / DEPTH] = from.a[i];
        b[at / TILE][at % TILE] = from.b[i];
    }
}

// grid (ceil(rows / 64), ceil(columns / 64)), block (256)
template <class P> __device__ void product(P p) {
    // Turned, so that a thread's 4 rows are a vector.
    __shared__ __align__(16) float a[2][DEPTH][TILE + 4];
    __shared__ __align__(16) float b[2][DEPTH][TILE];
    int row0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    int ty = threadIdx.x / 16 * 4, tx = threadIdx.x % 16 * 4;
    float sums[4][4] = {};
    Fetch<P> next;
    next.load(p, row0, column0, 0);
    put(next, a[0], b[0]);
    __syncthreads();
    for (int start = 0, half = 0; start < p.depth(); start += DEPTH, half ^= 1) {
        bool more = start + DEPTH < p.depth();
        if (more) next.load(p, row0, column0, start + DEPTH);
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            float4 a4 = *(const float4*)&a[half][d][ty];
            float4 b4 = *(const float4*)&b[half][d][tx];
            float rows[4] = {a4.x, a4.y, a4.z, a4.w}, columns[4] = {b4.x, b4.y, b4.z, b4.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] += rows[i] * columns[j];
            }
        }
        if (more) put(next, a[half ^ 1], b[half ^ 1]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = row0 + ty + i, column = column0 + tx + j;
            if (row < p.rows() && column < p.columns()) p.store(row, column, sums[i][j]);
        }
    }
}

// Rung 1: one thread computes one result, by the definition.
//
// Neighbouring threads have neighbouring rows. Their reads of x are C numbers apart, their writes
// of y K numbers apart: a warp's 32 numbers come from 32 places. For each number the memory
// delivers 32 bytes (a sector), of which 4 are used.
#include "convolution.cuh"

#define THREADS 256

// grid (ceil(rows / 32), ceil(columns / 8)), block (32, 8)
template <class P> __device__ void product(P p) {
    int row = blockIdx.x * 32 + threadIdx.x;
    int column = blockIdx.y * 8 + threadIdx.y;
    if (row >= p.rows() || column >= p.columns()) return;
    float sum = 0.0f;
    for (int d = 0; d < p.depth(); d++) sum += a(p, row, d) * b(p, d, column);
    p.store(row, column, sum);
}

#include "conv2d.cuh"
#include "conv2d_separate.cuh"

// Rung 1: one thread for each result, as the definition says.
//
// Neighbouring threads have neighbouring rows. Their reads of x lie C apart, their writes of y K
// apart: a warp's 32 numbers come from 32 places, and of each 32 bytes that the memory delivers for
// one of them (a sector) 4 are used.
#include "convolution.cuh"

#define THREADS 256

// grid (ceil(rows / 32), ceil(columns / 8)), block (32, 8)
template <class P> __device__ void product(P p) {
    int row = blockIdx.x * 32 + threadIdx.x;
    int column = blockIdx.y * 8 + threadIdx.y;
    if (row >= p.rows() || column >= p.columns()) return;
    float sum = 0.0f;
    for (int d = 0; d < p.depth(); d++) sum += p.a(row, d) * p.b(d, column);
    p.store(row, column, sum);
}

#include "conv2d.cuh"

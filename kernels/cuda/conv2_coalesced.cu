// Rung 2: the same threads, numbered along columns.
//
// Neighbouring threads have neighbouring columns, which are adjacent in w and y: a warp's 32
// numbers fill 4 sectors, and all their bytes are used. All lanes read the same number of x, which
// costs as much as a single read.
#include "convolution.cuh"

#define THREADS 256

// grid (ceil(rows / 8), ceil(columns / 32)), block (32, 8); a grid's y is at most 65,535
template <class P> __device__ void product(P p) {
    int row = blockIdx.x * 8 + threadIdx.y;
    int column = blockIdx.y * 32 + threadIdx.x;
    if (row >= p.rows() || column >= p.columns()) return;
    float sum = 0.0f;
    for (int d = 0; d < p.depth(); d++) sum += a(p, row, d) * b(p, d, column);
    p.store(row, column, sum);
}

#include "conv2d.cuh"
#include "conv2d_separate.cuh"

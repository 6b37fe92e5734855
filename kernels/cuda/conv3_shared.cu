// Rung 3: a block fetches each number that its threads need once, into shared memory.
//
// Rung 2 reads two numbers for each multiplication. The 16 x 16 results of a block need 16 rows and
// 16 columns: 16 threads use each number that is fetched.
#include "convolution.cuh"

#define TILE 16
#define THREADS (TILE * TILE)

// grid (ceil(rows / 16), ceil(columns / 16)), block (16, 16)
template <class P> __device__ void product(P p) {
    __shared__ float tile_a[TILE][TILE + 1];  // +1: a column's numbers are in different banks
    __shared__ float tile_b[TILE][TILE];
    int tx = threadIdx.x, ty = threadIdx.y;
    int row = blockIdx.x * TILE + ty, column = blockIdx.y * TILE + tx;
    float sum = 0.0f;
    for (int start = 0; start < p.depth(); start += TILE) {
        bool in_a = row < p.rows() && start + tx < p.depth();
        bool in_b = column < p.columns() && start + ty < p.depth();
        tile_a[ty][tx] = in_a ? a(p, row, start + tx) : 0.0f;
        tile_b[ty][tx] = in_b ? b(p, start + ty, column) : 0.0f;
        __syncthreads();  // the tiles are complete
        for (int d = 0; d < TILE; d++) sum += tile_a[ty][d] * tile_b[d][tx];
        __syncthreads();  // all threads have read them
    }
    if (row < p.rows() && column < p.columns()) p.store(row, column, sum);
}

#include "conv2d.cuh"
#include "conv2d_separate.cuh"

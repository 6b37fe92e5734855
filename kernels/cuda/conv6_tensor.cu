// Rung 6: tensor cores, which multiply small matrices as one instruction of a whole warp.
//
// Rung 4 gives each of its multiplications to a thread. Here a warp hands over 16 x 16 of a and
// 16 x 16 of b and gets the sums of all 4096 products; which lane has which of the numbers is the
// hardware's secret (a fragment), so that results go through shared memory to where they belong.
// Each of the block's four warps has 32 x 32 of its 64 x 64 results: four fragments of sums, for
// which it reads two of a and two of b. The next tile is on its way meanwhile, as in rung 4.
//
// The cores read less than a float32 has. As compiled by default, half: 11 binary digits, and no
// numbers beyond 65504 or below 6e-8; from sm_75 on. With -DTF32, as many digits and the range of
// float32, 16 x 8 times 8 x 16; from sm_80 on. Both add in float32, and all arrays stay float32.
//
// Nothing is scaled here. Gradients that are small for half lose digits below 6e-5 and are zero
// below 3e-8: who trains with half multiplies the loss by a power of two and divides the gradients.
#include <mma.h>

#include "convolution.cuh"

#define TILE 64
#define DEPTH 16
#define THREADS 128
#include "fetch.cuh"

#ifdef TF32
#if __CUDA_ARCH__ < 800
#error "TF32 needs a GPU of compute capability 8.0 (sm_80) or above: compile without -DTF32"
#endif
#define STEP 8  // of depth, in one instruction
typedef float Input;
typedef nvcuda::wmma::precision::tf32 Precision;
__device__ inline float as_input(float x) { return nvcuda::wmma::__float_to_tf32(x); }
#else
#define STEP 16
typedef half Input;
typedef half Precision;
__device__ inline half as_input(float x) { return __float2half(x); }
#endif

using namespace nvcuda::wmma;
typedef fragment<matrix_a, 16, 16, STEP, Precision, row_major> A;
typedef fragment<matrix_b, 16, 16, STEP, Precision, row_major> B;
typedef fragment<accumulator, 16, 16, STEP, float> Sums;

// Rows in shared memory are longer than what they hold, by so much that 8 pieces of 16 bytes, each
// from the row below the one before, lie in different banks.
#define A_ROW (DEPTH + 16 / (int)sizeof(Input))
#define B_ROW (TILE + 8)
#define PATCH_ROW (16 + 4)

template <class P>
__device__ void put(const Fetch<P>& from, Input (*a)[A_ROW], Input (*b)[B_ROW]) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int at = threadIdx.x + i * THREADS;
        a[at / DEPTH][at % DEPTH] = as_input(from.a[i]);
        b[at / TILE][at % TILE] = as_input(from.b[i]);
    }
}

// 16 x 16 results from the fragment of a warp, by way of its patch of shared memory.
template <class P>
__device__ void
store(const P& p, const Sums& sums, float (*patch)[PATCH_ROW], int row0, int column0) {
    store_matrix_sync(patch[0], sums, PATCH_ROW, mem_row_major);
    __syncwarp();  // all is there
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int at = threadIdx.x % 32 + i * 32;
        int row = row0 + at / 16, column = column0 + at % 16;
        if (row < p.rows() && column < p.columns()) p.store(row, column, patch[at / 16][at % 16]);
    }
    __syncwarp();  // all have read it
}

// grid (ceil(rows / 64), ceil(columns / 64)), block (128)
template <class P> __device__ void product(P p) {
    // A fragment begins at a multiple of 32 bytes.
    __shared__ __align__(32) Input a[2][TILE][A_ROW];
    __shared__ __align__(32) Input b[2][DEPTH][B_ROW];
    __shared__ __align__(32) float patches[THREADS / 32][16][PATCH_ROW];
    int row0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    int warp = threadIdx.x / 32, down = warp / 2 * 32, right = warp % 2 * 32;  // its 32 x 32
    Sums sums[2][2];
#pragma unroll
    for (int i = 0; i < 4; i++) fill_fragment(sums[i / 2][i % 2], 0.0f);
    Fetch<P> next;
    next.load(p, row0, column0, 0);
    put(next, a[0], b[0]);
    __syncthreads();
    for (int start = 0, side = 0; start < p.depth(); start += DEPTH, side ^= 1) {
        bool more = start + DEPTH < p.depth();
        if (more) next.load(p, row0, column0, start + DEPTH);
#pragma unroll
        for (int d = 0; d < DEPTH; d += STEP) {
            A rows[2];
            B columns[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                load_matrix_sync(rows[i], &a[side][down + 16 * i][d], A_ROW);
                load_matrix_sync(columns[i], &b[side][d][right + 16 * i], B_ROW);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                Sums& sum = sums[i / 2][i % 2];
                mma_sync(sum, rows[i / 2], columns[i % 2], sum);
            }
        }
        if (more) put(next, a[side ^ 1], b[side ^ 1]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        store(p, sums[i / 2][i % 2], patches[warp], row0 + down + i / 2 * 16,
              column0 + right + i % 2 * 16);
    }
}

#include "conv2d.cuh"

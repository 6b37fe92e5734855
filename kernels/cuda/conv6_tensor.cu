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
#define COLUMNS 64
#define DEPTH 16
#define THREADS 128
#include "fetch.cuh"

using namespace nvcuda::wmma;

#ifdef TF32
#if __CUDA_ARCH__ < 800
#error "TF32 needs a GPU of compute capability 8.0 (sm_80) or above: compile without -DTF32"
#endif
#define STEP 8  // of depth, in one instruction
typedef float Input;
typedef precision::tf32 Precision;
__device__ inline float as_input(float x) { return __float_to_tf32(x); }
#else
#define STEP 16
typedef half Input;
typedef half Precision;
__device__ inline half as_input(float x) { return __float2half(x); }
#endif

struct __align__(4 * sizeof(Input)) Four {
    Input numbers[4];
};
typedef fragment<accumulator, 16, 16, STEP, float> Sums;

// How 64 rows of a, or columns of b, lie in shared memory: in lines along what lies together in
// global memory, which a fragment may be read along or across. Lines are longer than what they
// hold, by so much that 8 pieces of 16 bytes from lines one after the other lie in different banks.
template <bool along_depth> struct Lines {
    static constexpr int length = DEPTH + 16 / sizeof(Input);
    typedef row_major OrderA;
    typedef col_major OrderB;
    __device__ static int place(int i, int d) { return i * length + d; }
};
template <> struct Lines<false> {
    static constexpr int length = TILE + 8;
    typedef col_major OrderA;
    typedef row_major OrderB;
    __device__ static int place(int i, int d) { return d * length + i; }
};
#define MEMORY (TILE * Lines<true>::length)  // of each tile; the other kind takes less
#define PATCH_LINE (16 + 4)

__device__ inline void put(Input* to, float4 v) {
    *(Four*)to = {as_input(v.x), as_input(v.y), as_input(v.z), as_input(v.w)};
}

template <class P>
__device__ void to_shared(const Fetch<P>& fetched, Input* a, Input* b) {
    const int line_a = Lines<P::a_along_depth>::length, line_b = Lines<!P::b_along_columns>::length;
    fetched.store([=](int fast, int slow, float4 v) { put(a + slow * line_a + fast, v); },
                  [=](int fast, int slow, float4 v) { put(b + slow * line_b + fast, v); });
}

// 16 x 16 results from the fragment of a warp, by way of its patch of shared memory.
template <class P>
__device__ void store(const P& p, const Sums& sums, float* patch, int row0, int column0) {
    store_matrix_sync(patch, sums, PATCH_LINE, mem_row_major);
    __syncwarp();  // all is there
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int at = threadIdx.x % 32 + i * 32;
        int row = row0 + at / 16, column = column0 + at % 16;
        if (row < p.rows() && column < p.columns()) {
            p.store(row, column, patch[at / 16 * PATCH_LINE + at % 16]);
        }
    }
    __syncwarp();  // all have read it
}

// grid (ceil(rows / 64), ceil(columns / 64)), block (128)
template <class P> __device__ void product(const P& p) {
    // A fragment must begin at a multiple of 32 bytes.
    __shared__ __align__(32) Input a[2][MEMORY];
    __shared__ __align__(32) Input b[2][MEMORY];
    __shared__ __align__(32) float patches[THREADS / 32][16 * PATCH_LINE];
    typedef Lines<P::a_along_depth> LinesA;
    typedef Lines<!P::b_along_columns> LinesB;
    int row0 = blockIdx.x * TILE, column0 = blockIdx.y * COLUMNS;
    int warp = threadIdx.x / 32, down = warp / 2 * 32, right = warp % 2 * 32;  // its 32 x 32
    Sums sums[2][2];
#pragma unroll
    for (int i = 0; i < 4; i++) fill_fragment(sums[i / 2][i % 2], 0.0f);
    Fetch<P> next;
    next.load(p, row0, column0, 0, p.depth());
    to_shared(next, a[0], b[0]);
    __syncthreads();
    for (int start = 0, side = 0; start < p.depth(); start += DEPTH, side ^= 1) {
        bool more = start + DEPTH < p.depth();
        if (more) next.load(p, row0, column0, start + DEPTH, p.depth());
#pragma unroll
        for (int d = 0; d < DEPTH; d += STEP) {
            fragment<matrix_a, 16, 16, STEP, Precision, typename LinesA::OrderA> rows[2];
            fragment<matrix_b, 16, 16, STEP, Precision, typename LinesB::OrderB> columns[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const Input* from_a = a[side] + LinesA::place(down + 16 * i, d);
                const Input* from_b = b[side] + LinesB::place(right + 16 * i, d);
                load_matrix_sync(rows[i], from_a, LinesA::length);
                load_matrix_sync(columns[i], from_b, LinesB::length);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                Sums& sum = sums[i / 2][i % 2];
                mma_sync(sum, rows[i / 2], columns[i % 2], sum);
            }
        }
        if (more) to_shared(next, a[side ^ 1], b[side ^ 1]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        store(p, sums[i / 2][i % 2], patches[warp], row0 + down + i / 2 * 16,
              column0 + right + i % 2 * 16);
    }
}

#include "conv2d.cuh"

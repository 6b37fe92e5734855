// Rung 6: tensor cores, which multiply small matrices in one instruction of a warp.
//
// In rung 4 each multiplication belongs to a thread. Here a warp passes a 16 x 16 tile of a and one
// of b (fragments) to the cores and gets the sums of all 4096 products. NVIDIA does not document
// which lane has which numbers, so results go to their places through shared memory. Each of the
// block's four warps has 32 x 32 of the 64 x 64 results: four fragments of sums, for which it reads
// two fragments of a and two of b. Meanwhile the next tile is fetched, as in rung 4.
//
// The cores read fewer bits than a float32 has. By default half: 11 significant bits, no numbers
// above 65504 or below 6e-8; sm_75 or later. With -DBF16 bfloat16: 8 bits and the range of float32;
// sm_80 or later. With -DTF32: 11 bits and the range of float32, 16 x 8 times 8 x 16; sm_80 or
// later. Sums are float32, but bits are cut off instead of rounded (emulator/machine/wmma.h), so
// that the error of a sum grows with its depth.
//
// Arrays are float32. With -DSTORED x has the type that the cores read: norm.cu, which computed it
// for this convolution alone, has rounded it already, so that no bit of a result changes. A
// 3 x 3 window reads every number of x nine times, and the backward reads it again: each read has
// half as many bytes, and x takes half the memory until the backward.
//
// Nothing is scaled here. Small gradients lose bits in half below 6e-5 and are zero below 3e-8:
// training/loss_scale.py multiplies the loss by a power of two and divides the gradients by it.
#include <mma.h>

#define TILE 64
#define COLUMNS 64
#define DEPTH 16
#define THREADS 128
// Blocks on a multiprocessor; more would spill registers.
#ifdef TF32
#define BOUNDS THREADS, 3
#else
#define BOUNDS THREADS, 4
#endif

using namespace nvcuda::wmma;

#ifdef TF32
#if __CUDA_ARCH__ < 800
#error "TF32 needs a GPU of compute capability 8.0 (sm_80) or above: compile without -DTF32"
#endif
#define STEP 8  // depth of one instruction
typedef float Input;
typedef precision::tf32 Precision;
__device__ inline float as_input(float x) { return __float_to_tf32(x); }
#else
#define STEP 16
#include "narrow.cuh"
typedef Narrow Input;
typedef Narrow Precision;
__device__ inline Narrow as_input(float x) { return narrow(x); }
#endif

struct __align__(4 * sizeof(Input)) Four {
    Input numbers[4];
};
#ifdef STORED
typedef Input Stored;
typedef Four Stored4;
#endif
#include "convolution.cuh"
#include "fetch.cuh"

typedef fragment<accumulator, 16, 16, STEP, float> Sums;

// The layout of 64 rows of a, or columns of b, in shared memory: in lines along the axis that is
// contiguous in global memory. A fragment can be read along or across lines. Lines are padded so
// that 8 pieces of 16 bytes from consecutive lines are in different banks.
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
#define SIDE_A (TILE * Lines<true>::length)  // numbers of a tile; Lines<false> takes fewer
#define SIDE_B SIDE_A
#define MEMORY (2 * (SIDE_A + SIDE_B) * sizeof(Input) / sizeof(float))  // two tiles of each
#define PATCH_LINE (16 + 4)

__device__ inline void put(Input* to, float4 v) {
    *(Four*)to = {as_input(v.x), as_input(v.y), as_input(v.z), as_input(v.w)};
}
__device__ inline void put(Input* to, Four v) { *(Four*)to = v; }

template <class P, bool TOGETHER>
__device__ void to_shared(const Fetch<P, TOGETHER>& fetched, Input* a, Input* b) {
    fetched.a.store([=](int line, int d, typename P::A v) {
        put(a + Lines<P::a_along_depth>::place(line, d), v);
    });
    fetched.b.store([=](int line, int d, float4 v) {
        put(b + Lines<!P::b_along_columns>::place(line, d), v);
    });
}

struct Tile {
    static constexpr int numbers = 4 * Sums::num_elements;
    Sums sums[2][2];
    __device__ static int down() { return threadIdx.x / 64 * 32; }  // row of its 32 x 32
    __device__ static int right() { return threadIdx.x / 32 % 2 * 32; }
    // The layout of a fragment is unknown, but it is the same in all fragments of a kind.
    __device__ float& number(int i) {
        const int each = Sums::num_elements;
        return sums[i / each / 2][i / each % 2].x[i % each];
    }
    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < 4; i++) fill_fragment(sums[i / 2][i % 2], 0.0f);
    }
    // Add the products of two tiles in shared memory.
    template <class P> __device__ void multiply(const Input* a, const Input* b) {
        typedef Lines<P::a_along_depth> LinesA;
        typedef Lines<!P::b_along_columns> LinesB;
#pragma unroll
        for (int d = 0; d < DEPTH; d += STEP) {
            fragment<matrix_a, 16, 16, STEP, Precision, typename LinesA::OrderA> rows[2];
            fragment<matrix_b, 16, 16, STEP, Precision, typename LinesB::OrderB> columns[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const Input* from_a = a + LinesA::place(down() + 16 * i, d);
                const Input* from_b = b + LinesB::place(right() + 16 * i, d);
                load_matrix_sync(rows[i], from_a, LinesA::length);
                load_matrix_sync(columns[i], from_b, LinesB::length);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                Sums& sum = sums[i / 2][i % 2];
                mma_sync(sum, rows[i / 2], columns[i % 2], sum);
            }
        }
    }
    // Store each fragment through the warp's own patch of shared memory, which add_up() no
    // longer needs.
    template <class P>
    __device__ void store(const P& p, float* memory, int row0, int column0) const {
        int lane = threadIdx.x % 32;
        float* patch = memory + threadIdx.x / 32 * 16 * PATCH_LINE;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            store_matrix_sync(patch, sums[i / 2][i % 2], PATCH_LINE, mem_row_major);
            __syncwarp();  // the patch is complete
#pragma unroll
            for (int j = 0; j < 8; j++) {
                int down = j * 2 + lane / 16, right = lane % 16;
                int row = row0 + Tile::down() + i / 2 * 16 + down;
                int column = column0 + Tile::right() + i % 2 * 16 + right;
                if (row < p.rows() && column < p.columns()) {
                    p.store(row, column, patch[down * PATCH_LINE + right]);
                }
            }
            __syncwarp();  // all lanes have read it
        }
    }
};

#include "tiled.cuh"

#include "conv2d.cuh"
#include "conv2d_gradients.cuh"

// Rung 6: tensor cores, which multiply small matrices in one instruction of a warp.
//
// In rung 4 each multiplication belongs to a thread. Here a warp passes 16 rows of a and 8 columns
// of b, 32 bytes deep, to the cores and gets the sums of all 2048 products (with TF32 1024). Each
// lane holds certain numbers of these matrices in registers (ptx.cuh); `ldmatrix` fetches them from
// shared memory, four registers at a time. Each of the block's four warps has 32 x 32 of the 64 x 64
// results, or of 128 x 32 for few columns: for eight products it fetches 32 rows and 32 columns.
//
// The cores read fewer bits than a float32 has. By default half: 11 significant bits, no numbers
// above 65504 or below 6e-8; sm_75 or later. With -DBF16 bfloat16: 8 bits and the range of float32;
// sm_80 or later. With -DTF32: 11 bits and the range of float32; sm_80 or later. Sums are float32,
// but bits are cut off instead of rounded (emulator/machine/tensor_sums.h), so that the error of a
// sum grows with its depth.
//
// Arrays are float32, and rounded between the loads into registers and the stores to shared memory,
// once for each tile. With -DSTORED x has the type that the cores read: norm.cu, which computed it
// for this convolution alone, has rounded it already, so that no bit of a result changes. A
// 3 x 3 window reads every number of x nine times, and the backward reads it again: each read has
// half as many bytes, and x takes half the memory until the backward. From sm_80 on it is copied to
// shared memory past the registers (cp.async), two tiles ahead of the products instead of one.
//
// Nothing is scaled here. Small gradients lose bits in half below 6e-5 and are zero below 3e-8:
// training/loss_scale.py multiplies the loss by a power of two and divides the gradients by it.
#ifndef COLUMNS
#define COLUMNS 64  // or 32, for few columns
#endif
#define TILE (4096 / COLUMNS)
#define THREADS 128
#if defined(STORED) && __CUDA_ARCH__ >= 800
#define STAGES 3  // tiles in shared memory
#else
#define STAGES 2
#endif
// Blocks on a multiprocessor; more would spill registers.
#define BOUNDS THREADS, (COLUMNS == 32 && __CUDA_ARCH__ < 800 ? 2 : 3)

#ifdef TF32
#if __CUDA_ARCH__ < 800
#error "TF32 needs a GPU of compute capability 8.0 (sm_80) or above: compile without -DTF32"
#endif
#include "ptx.cuh"
typedef float Input;
__device__ inline float as_input(float x) { return to_tf32(x); }
#else
#include "narrow.cuh"
typedef Narrow Input;
__device__ inline Narrow as_input(float x) { return narrow(x); }
__device__ inline Narrow as_input(Narrow x) { return x; }
#endif
#define PIECE int(16 / sizeof(Input))  // numbers of 16 bytes
#define STEP (2 * PIECE)               // depth of one instruction
#define DEPTH (4 * PIECE)              // of a tile

#ifdef STORED
typedef Input Stored;
#endif
#include "convolution.cuh"
#include "fetch.cuh"

#ifdef TF32
#define PADDING 8  // of a line that is read number by number
#else
#define PADDING 0
#endif
#define SIDE_A ((TILE + PADDING) * DEPTH)
#define SIDE_B ((COLUMNS + PADDING) * DEPTH)
#define MEMORY (STAGES * (SIDE_A + SIDE_B) * sizeof(Input) / sizeof(float))
#define PATCH_LINE (32 + 8)

// A tile in shared memory: in lines along the axis that is contiguous in global memory, and these in
// pieces of 16 bytes. ldmatrix reads the same piece of eight consecutive lines, which would be in
// the same banks. So each line has its pieces in another order. Where it is not used, because only
// 16-bit matrices can be transposed, lines are padded: 32 lanes read eight numbers of four lines.
template <class Side> struct Layout {
    static constexpr bool by_matrix = Side::along_depth || PADDING == 0;
    static constexpr int line = Side::along_depth ? DEPTH : Side::length + PADDING;  // numbers
    // Return where row or column i is at depth d.
    __device__ static int place(int i, int d) {
        int number = Side::along_depth ? i : d, at = Side::along_depth ? d : i;
        int turn = !by_matrix ? 0 : line == 4 * PIECE ? number / 2 % 4 : number % 8;
        return number * line + (at / PIECE ^ turn) * PIECE + at % PIECE;
    }
    // Load rows or columns i to i + 15 at depths d to d + STEP - 1, as four matrices of 8 rows or
    // columns and 16 bytes. A product takes all of a; of b the first two, or the last two, which are
    // the same columns. So matrix 1 has the next rows of a, but the next depths of b.
    __device__ static void load(unsigned (&to)[4], const Input* tile, int i, int d, bool is_b) {
        int lane = threadIdx.x % 32, row = lane % 8;
        auto down = [=](int m) { return (is_b ? m / 2 : m % 2) * 8; };
        auto deep = [=](int m) { return d + (is_b ? m % 2 : m / 2) * PIECE; };
        if (!by_matrix) {
#pragma unroll
            for (int m = 0; m < 4; m++) {
                int at = place(i + down(m) + lane / 4, deep(m) + lane % 4);
                to[m] = *(const unsigned*)&tile[at];
            }
        } else if (Side::along_depth) {
            ldmatrix_x4(to, tile + i * line + place(down(lane / 8) + row, deep(lane / 8)));
        } else {
            ldmatrix_x4_trans(to, tile + place(i + down(lane / 8), deep(lane / 8) + row));
        }
    }
};

// Whether the vectors of a side are copied to shared memory as they are.
template <class V>
constexpr bool COPIED = V::TOGETHER && STAGES == 3 && sizeof(typename V::Number) == sizeof(Input);

template <class P, class V> __device__ void from_global(V& side, const P& p, int end, Input* tile) {
    if constexpr (COPIED<V>) {
        side.each(p, [&](int i) {
            auto entry = side.at(p, i, 0, end);
            int place = Layout<typename V::Side>::place(side.line_in_tile(i), side.depth_in_tile(i));
            cp_async16(tile + place, entry.from, entry.inside);
        });
    } else {
        side.load(p, end);
    }
}
template <class V> __device__ void to_shared(const V& side, Input* tile) {
    if constexpr (COPIED<V>) return;
    side.store([=](int line, int d, auto v) {
        Vector<Input, v.length> rounded;
#pragma unroll
        for (int j = 0; j < v.length; j++) rounded.at[j] = as_input(v.at[j]);
        *(Vector<Input, v.length>*)&tile[Layout<typename V::Side>::place(line, d)] = rounded;
    });
}
__device__ inline void await_tile() {
#if STAGES == 3
    cp_async_commit();
    cp_async_wait<1>();
#endif
}

__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(TF32)
    mma_m16n8k8_tf32(c, a, b);
#elif defined(BF16)
    mma_m16n8k16_bf16(c, a, b);
#else
    mma_m16n8k16_f16(c, a, b);
#endif
}

struct Tile {
    static constexpr int numbers = 32;  // sums of each thread
    float sums[2][4][4];                // of 16 rows and 8 columns; four in this lane
    __device__ static int down() { return threadIdx.x / 32 / (COLUMNS / 32) * 32; }
    __device__ static int right() { return threadIdx.x / 32 % (COLUMNS / 32) * 32; }
    __device__ float& number(int i) { return sums[i / 16][i / 4 % 4][i % 4]; }
    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < numbers; i++) number(i) = 0.0f;
    }
    // Add the products of two tiles in shared memory.
    template <class P> __device__ void multiply(const Input* a, const Input* b) {
#pragma unroll
        for (int d = 0; d < DEPTH; d += STEP) {
            unsigned rows[2][4], columns[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                Layout<SideA<P>>::load(rows[i], a, down() + 16 * i, d, false);
                Layout<SideB<P>>::load(columns[i], b, right() + 16 * i, d, true);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const unsigned* column = &columns[i % 4 / 2][i % 2 * 2];
                ::multiply(sums[i / 4][i % 4], rows[i / 4], {column[0], column[1]});
            }
        }
    }
    // Store 16 rows at a time through the warp's own patch of shared memory, which add_up() no
    // longer needs, so that lanes that are neighbours store neighbouring numbers.
    template <class P>
    __device__ void store(const P& p, float* memory, int row0, int column0) const {
        int lane = threadIdx.x % 32, column = column0 + right() + lane;
        float* patch = memory + threadIdx.x / 32 * 16 * PATCH_LINE;
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float* two = &sums[i][j / 2][j % 2 * 2];
                float* to = patch + (lane / 4 + j % 2 * 8) * PATCH_LINE + j / 2 * 8 + lane % 4 * 2;
                *(float2*)to = {two[0], two[1]};
            }
            __syncwarp();  // the patch is complete
#pragma unroll
            for (int j = 0; j < 16; j++) {
                int row = row0 + down() + 16 * i + j;
                if (row < p.rows() && column < p.columns()) {
                    p.store(row, column, patch[j * PATCH_LINE + lane]);
                }
            }
            __syncwarp();  // all lanes have read it
        }
    }
};

#include "tiled.cuh"

#include "conv2d.cuh"
#include "conv2d_gradients.cuh"

// The tile on tensor cores: TILE x COLUMNS results for each block, 32 x 32 or 64 x 32 for each warp.
// conv6_tensor.cu explains why it is built like this; P is a problem as in convolution.cuh.
#ifndef COLUMNS
#define COLUMNS 64  // or 32, for few columns
#endif
#define TILE (4096 / COLUMNS)
#if defined(TF32) && COLUMNS == 32
#define WARP_ROWS 64  // and 32 columns
#else
#define WARP_ROWS 32
#endif
#define THREADS (4096 / WARP_ROWS)
#if (defined(STORED) || defined(TF32)) && __CUDA_ARCH__ >= 800
#define STAGES 3  // tiles in shared memory
#else
#define STAGES 2
#endif
// Blocks on a multiprocessor; more would spill registers.
#ifdef TF32
#define BLOCKS (COLUMNS == 32 ? 4 : 3)
#elif __CUDA_ARCH__ >= 800
#define BLOCKS (COLUMNS == 32 ? 3 : 4)
#else
#define BLOCKS (COLUMNS == 32 ? 2 : 3)
#endif
#define BOUNDS THREADS, BLOCKS
// With four blocks of 128 threads, a thread has 128 registers: some kernels need more.
#define FEWER (BLOCKS == 4 && THREADS == 128 ? 3 : BLOCKS)
#define BOUNDS_X THREADS, (__CUDA_ARCH__ >= 1000 ? FEWER : BLOCKS)
#define BOUNDS_SHORTCUT THREADS, FEWER

#ifdef TF32
#if __CUDA_ARCH__ < 800
#error "TF32 needs a GPU of compute capability 8.0 (sm_80) or above: compile without -DTF32"
#endif
#include "ptx.cuh"
typedef float Input;
__device__ inline float as_input(float x) { return x; }
// Round to 11 significant bits, ties away from zero: add half of the last one. The cores do not
// read what is below. Infinity and NaN remain. (PTX's cvt.rna.tf32.f32 takes four instructions of
// the machine, this takes two.)
__device__ inline unsigned as_read(unsigned bits) {
    float power = __uint_as_float(bits & 0xff800000);  // of two, with the sign
    return __float_as_uint(fmaf(power, 1.0f / 2048, __uint_as_float(bits)));
}
#else
#include "narrow.cuh"
typedef Narrow Input;
__device__ inline Narrow as_input(float x) { return narrow(x); }
__device__ inline Narrow as_input(Narrow x) { return x; }
__device__ inline unsigned as_read(unsigned bits) { return bits; }
#endif
#define PIECE int(16 / sizeof(Input))  // numbers of 16 bytes
#define STEP (2 * PIECE)               // depth of one instruction
#define DEPTH (4 * PIECE)              // of a tile

#ifdef STORED
typedef Input Stored;
#endif
#include "convolution.cuh"
#include "fetch.cuh"

#define SIDE_A (TILE * DEPTH)
#define SIDE_B (COLUMNS * DEPTH)
#define MEMORY (STAGES * (SIDE_A + SIDE_B) * sizeof(Input) / sizeof(float))

// A tile in shared memory: in lines along the axis that is contiguous in global memory, and these in
// pieces of 16 bytes. What lanes read together, the same pieces of eight or four lines, would be in
// the same banks. So each line has its pieces in another order.
//
// Only matrices of 16-bit numbers can be transposed by ldmatrix. Where TF32 would need that, lane
// 4 g + t reads rows (columns) 4 g to 4 g + 3 at depth t as 16 bytes, and each of them belongs to
// another matrix. So row g of matrix n is row 4 g + n in the tile.
template <class Side> struct Layout {
    static constexpr bool by_matrix = Side::along_depth || sizeof(Input) == 2;
    static constexpr int line = Side::along_depth ? DEPTH : Side::length;  // numbers
    // Return which row or column of the tile is the i-th of the matrices, four of which have 32.
    __device__ static int in_tile(int i) {
        return by_matrix ? i : i / 32 * 32 + i % 8 * 4 + i % 32 / 8;
    }
    // Return where row or column i is at depth d.
    __device__ static int place(int i, int d) {
        int number = Side::along_depth ? i : d, at = Side::along_depth ? d : i;
        int turn = !by_matrix ? number % 4 * 2 : line == 4 * PIECE ? number / 2 % 4 : number % 8;
        return number * line + (at / PIECE ^ turn) * PIECE + at % PIECE;
    }
    // Load rows or columns i to i + 31 at depths d to d + STEP - 1: 16 to to[0] and 16 to to[1],
    // as four matrices of 8 rows or columns and 16 bytes. A product takes all of a; of b the first
    // two, or the last two, which are the same columns. So matrix 1 has the next rows of a, but the
    // next depths of b.
    __device__ static void load(unsigned (&to)[2][4], const Input* tile, int i, int d, bool is_b) {
        int lane = threadIdx.x % 32, row = lane % 8;
        auto down = [=](int m) { return (is_b ? m / 2 : m % 2) * 8; };
        auto deep = [=](int m) { return d + (is_b ? m % 2 : m / 2) * PIECE; };
#pragma unroll
        for (int j = 0; j < 2; j++) {
            if (!by_matrix) {
                int at = place(i + lane / 4 * 4, d + j * PIECE + lane % 4);
                uint4 four = *(const uint4*)&tile[at];
                int next = is_b ? 2 : 1, m = is_b ? j : 2 * j;
                to[0][m] = four.x, to[0][m + next] = four.y;
                to[1][m] = four.z, to[1][m + next] = four.w;
            } else if (Side::along_depth) {
                const Input* from = tile + (i + 16 * j) * line;
                ldmatrix_x4(to[j], from + place(down(lane / 8) + row, deep(lane / 8)));
            } else {
                int at = i + 16 * j + down(lane / 8);
                ldmatrix_x4_trans(to[j], tile + place(at, deep(lane / 8) + row));
            }
        }
#pragma unroll
        for (int j = 0; j < 8; j++) to[j / 4][j % 4] = as_read(to[j / 4][j % 4]);
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
    static constexpr int numbers = WARP_ROWS;  // sums of each thread
    float sums[WARP_ROWS / 16][4][4];          // of 16 rows and 8 columns; four in this lane
    __device__ static int down() { return threadIdx.x / 32 / (COLUMNS / 32) * WARP_ROWS; }
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
            unsigned columns[2][4], rows[2][4];
            Layout<SideB<P>>::load(columns, b, right(), d, true);
#pragma unroll
            for (int i = 0; i < WARP_ROWS / 4; i++) {
                if (i % 8 == 0) Layout<SideA<P>>::load(rows, a, down() + 4 * i, d, false);
                const unsigned* column = &columns[i % 4 / 2][i % 2 * 2];
                ::multiply(sums[i / 4][i % 4], rows[i / 4 % 2], {column[0], column[1]});
            }
        }
    }
    // Store 16 rows at a time through the warp's own patch of shared memory, which add_up() no
    // longer needs, so that eight lanes store a row's 32 columns.
    template <class P>
    __device__ void store(const P& p, float* memory, int row0, int column0) const {
        typedef Layout<SideB<P>> Right;
        const int line = Right::by_matrix ? 40 : 33;  // without bank conflicts
        int lane = threadIdx.x % 32, four_from = lane % 8 * 4;
        float* patch = memory + threadIdx.x / 32 * 16 * line;
#pragma unroll
        for (int i = 0; i < WARP_ROWS / 16; i++) {
#pragma unroll
            for (int j = 0; j < 16; j++) {
                int down = lane / 4 + j / 2 % 2 * 8, right = j / 4 * 8 + lane % 4 * 2 + j % 2;
                patch[down * line + Right::in_tile(right)] = sums[i][j / 4][j % 4];
            }
            __syncwarp();  // the patch is complete
#pragma unroll
            for (int j = 0; j < 16; j += 4) {
                int its_row = j + lane / 8;
                const float* from = patch + its_row * line + four_from;
                Vector<float, 4> four;
                if constexpr (Right::by_matrix) {
                    four = *(const Vector<float, 4>*)from;
                } else {
#pragma unroll
                    for (int n = 0; n < 4; n++) four.at[n] = from[n];
                }
                int row = row0 + down() + Layout<SideA<P>>::in_tile(16 * i + its_row);
                store_within(p, p.vector(), row, column0 + right() + four_from, four);
            }
            __syncwarp();  // all lanes have read it
        }
    }
};

#include "tiled.cuh"

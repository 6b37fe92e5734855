// The register tile: TILE x COLUMNS results for each block, 8 x 8 of them for each thread.
// conv4_registers.cu explains why it is built like this; P is a problem as in convolution.cuh.

#ifndef TILE
#define TILE 128  // or 64, for few rows
#endif
#ifndef COLUMNS
#define COLUMNS 64  // or 32, for few columns
#endif
#define DEPTH 8
#define STAGES 2
#define THREADS (TILE / 8 * (COLUMNS / 8))
#define BOUNDS THREADS, (256 / THREADS)  // threads on a multiprocessor; more would spill registers
// Shared memory: two tiles of a, two of b. The + 4 gives transposed stores fewer bank conflicts.
#define LINE_A (TILE + 4)
#define LINE_B (COLUMNS + 4)
#define SIDE_A (DEPTH * LINE_A)
#define SIDE_B (DEPTH * LINE_B)
#define MEMORY (STAGES * (SIDE_A + SIDE_B))
#include "fetch.cuh"

typedef float Input;

// Store v into a tile whose rows are depths; a vector along the depth is transposed (turned).
__device__ inline void put(float* tile, int width, bool turned, int line, int d,
                           const Vector<float, 4>& v) {
    if (turned) {
#pragma unroll
        for (int j = 0; j < 4; j++) tile[(d + j) * width + line] = v.at[j];
    } else {
        *(Vector<float, 4>*)&tile[d * width + line] = v;
    }
}

template <class P, bool TOGETHER>
__device__ void from_global(Fetch<P, TOGETHER>& next, const P& p, int end, float*, float*) {
    next.a.load(p, end), next.b.load(p, end);
}
template <class P, bool TOGETHER>
__device__ void to_shared(const Fetch<P, TOGETHER>& fetched, float* a, float* b) {
    const bool turned_a = P::a_along_depth, turned_b = !P::b_along_columns;
    fetched.a.store([=](int line, int d, auto v) { put(a, LINE_A, turned_a, line, d, v); });
    fetched.b.store([=](int line, int d, auto v) { put(b, LINE_B, turned_b, line, d, v); });
}
__device__ inline void await_tile() {}  // loads into registers need no wait

struct Tile {
    static constexpr int numbers = 64;  // sums of each thread
    float sums[8][8];
    __device__ float& number(int i) { return sums[i / 8][i % 8]; }
    // Row i of the thread's eight: four neighbours in each half of the tile, so that the vectors
    // that a warp reads from shared memory at once are neighbours. Columns likewise.
    __device__ static int row(int i) {
        return threadIdx.x / (COLUMNS / 8) * 4 + i % 4 + i / 4 * (TILE / 2);
    }
    __device__ static int column(int j) {
        return threadIdx.x % (COLUMNS / 8) * 4 + j % 4 + j / 4 * (COLUMNS / 2);
    }
    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < numbers; i++) sums[i / 8][i % 8] = 0.0f;
    }
    // Add the products of two tiles in shared memory: for each depth 64 with 16 numbers read.
    template <class P> __device__ void multiply(const float* a, const float* b) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            float rows[8], columns[8];
#pragma unroll
            for (int i = 0; i < 8; i += 4) {
                *(float4*)&rows[i] = *(const float4*)&a[d * LINE_A + row(i)];
                *(float4*)&columns[i] = *(const float4*)&b[d * LINE_B + column(i)];
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
#pragma unroll
                for (int j = 0; j < 8; j++) sums[i][j] += rows[i] * columns[j];
            }
        }
    }
    template <class P>
    __device__ void store(const P& p, float*, int row0, int column0) const {
#pragma unroll
        for (int i = 0; i < 8; i++) {
#pragma unroll
            for (int j = 0; j < 8; j++) {
                int at_row = row0 + row(i), at_column = column0 + column(j);
                if (at_row < p.rows() && at_column < p.columns()) {
                    p.store(at_row, at_column, sums[i][j]);
                }
            }
        }
    }
};

#include "tiled.cuh"

// The register tile: TILE x COLUMNS results for each block, 4 x 4 of them for each thread.
// conv4_registers.cu explains why it is built like this; P is a problem as in convolution.cuh.

#define TILE 64
#ifndef COLUMNS
#define COLUMNS 64  // or 32, for few channels
#endif
#define DEPTH 16
#define THREADS (TILE / 4 * (COLUMNS / 4))
// Shared memory: two tiles of a, two of b. The + 4 gives transposed stores fewer bank conflicts.
#define LINE_A (TILE + 4)
#define LINE_B (COLUMNS + 4)
#define MEMORY (2 * DEPTH * (LINE_A + LINE_B))
#include "fetch.cuh"

// Store v into a tile whose rows are depths; a vector along the depth is transposed (turned).
__device__ inline void put(float* tile, int width, bool turned, int fast, int slow, float4 v) {
    if (turned) {
        float numbers[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; j++) tile[(fast + j) * width + slow] = numbers[j];
    } else {
        *(float4*)&tile[slow * width + fast] = v;
    }
}

template <class P> __device__ void to_shared(const Fetch<P>& fetched, float* a, float* b) {
    fetched.store(
        [=](int fast, int slow, float4 v) { put(a, LINE_A, P::a_along_depth, fast, slow, v); },
        [=](int fast, int slow, float4 v) { put(b, LINE_B, !P::b_along_columns, fast, slow, v); });
}

struct Tile {
    static constexpr int numbers = 16;  // sums of each thread
    float sums[4][4];
    __device__ float& number(int i) { return sums[i / 4][i % 4]; }
    __device__ static int row() { return threadIdx.x / (COLUMNS / 4) * 4; }
    __device__ static int column() { return threadIdx.x % (COLUMNS / 4) * 4; }

    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < 16; i++) sums[i / 4][i % 4] = 0.0f;
    }
    // Add the products over depths `start` to `end`, for the tile that begins at (row0, column0).
    template <class P>
    __device__ void add_up(const P& p, float* memory, int row0, int column0, int start, int end) {
        float *a = memory, *b = memory + 2 * DEPTH * LINE_A;
        Fetch<P> next;
        next.load(p, row0, column0, start, end);
        to_shared(next, a, b);
        __syncthreads();
        for (int half = 0; start < end; start += DEPTH, half ^= 1) {
            const float *a_now = a + half * DEPTH * LINE_A, *b_now = b + half * DEPTH * LINE_B;
            bool more = start + DEPTH < end;
            if (more) next.load(p, row0, column0, start + DEPTH, end);
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                float4 a4 = *(const float4*)&a_now[d * LINE_A + row()];
                float4 b4 = *(const float4*)&b_now[d * LINE_B + column()];
                float rows[4] = {a4.x, a4.y, a4.z, a4.w}, columns[4] = {b4.x, b4.y, b4.z, b4.w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
#pragma unroll
                    for (int j = 0; j < 4; j++) sums[i][j] += rows[i] * columns[j];
                }
            }
            int other = half ^ 1;
            if (more) to_shared(next, a + other * DEPTH * LINE_A, b + other * DEPTH * LINE_B);
            __syncthreads();
        }
    }
    template <class P>
    __device__ void store(const P& p, float*, int row0, int column0) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int row = row0 + Tile::row() + i, column = column0 + Tile::column() + j;
                if (row < p.rows() && column < p.columns()) p.store(row, column, sums[i][j]);
            }
        }
    }
};

#include "tiled.cuh"

// The register tile: TILE x COLUMNS results for each block, 8 x 8 of them for each thread.
// conv4_registers.cu explains why it is built like this; P is a problem as in convolution.cuh.

#ifndef TILE
#define TILE 128  // or 64, for few rows
#endif
#ifndef COLUMNS
#define COLUMNS 64  // or 32, for few columns
#endif
#define DEPTH 8
#if __CUDA_ARCH__ >= 800
#define STAGES 3  // tiles in shared memory: two are on their way while one is multiplied
#else
#define STAGES 2
#endif
#define THREADS (TILE / 8 * (COLUMNS / 8))
// Threads on a multiprocessor; more would spill registers, up to sm_80 those of the smallest tile,
// of which there are few. gx has both sides along the depth.
#define BOUNDS THREADS, ((THREADS == 32 && __CUDA_ARCH__ <= 800 ? 256 : 384) / THREADS)
#define BOUNDS_X THREADS, (256 / THREADS)
#define LANES (THREADS / DEPTH)  // of fetch.cuh: each depth of a tile is read at once
#define ONE_BY_ONE 1             // so that a warp fetches whole sectors
#define SIDE_A (DEPTH * TILE)
#define SIDE_B (DEPTH * COLUMNS)
#define MEMORY (STAGES * (SIDE_A + SIDE_B))
#include "fetch.cuh"
#include "ptx.cuh"

typedef float Input;

// A tile in shared memory, in lines along the axis that is contiguous in global memory, so that
// 16 bytes are stored as they were fetched.
template <class Side> struct Layout {
    static constexpr bool DEEP = Side::along_depth;
    static constexpr int GROUPS = Side::length / 8;  // of threads, which have the same eight lines
    // Of these, so many are neighbours: GROUPS threads store whole sectors of 32 bytes.
    static constexpr int NEAR = DEEP ? (GROUPS < 8 ? 8 / GROUPS : 1) : 4;
    // Return which row or column is the i-th of a group's eight.
    __device__ static int number(int group, int i) {
        return group * NEAR + i % NEAR + i / NEAR * NEAR * GROUPS;
    }
    // Return where row or column i is at depth d. Along the depth a line has two vectors. Eight
    // lanes read one of them from eight neighbouring lines, or four lanes from every second line;
    // every second four lines have them swapped, so that all are in different banks.
    __device__ static int place(int i, int d) {
        return DEEP ? i * DEPTH + (d / 4 ^ i / 4 % 2) * 4 : d * Side::length + i;
    }
    // Load a thread's eight numbers at depths d to d + 3, from `tile`.
    __device__ static void load(float (&to)[4][8], const float* tile, int group, int d) {
        const float* from = tile + place(number(group, 0), d);
#pragma unroll
        for (int v = 0; v < 8; v++) {
            int i = DEEP ? v : v % 2 * 4, at = DEEP ? 0 : v / 2;
            float4 four = *(const float4*)(from + place(number(0, i), at));
            const float numbers[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int j = 0; j < 4; j++) to[DEEP ? j : at][DEEP ? i : i + j] = numbers[j];
        }
    }
};

// Whether the vectors of a side are copied to shared memory past the registers.
template <class V> constexpr bool COPIED = V::TOGETHER && __CUDA_ARCH__ >= 800;

template <class P, class V>
__device__ void from_global(V& side, const P& p, int left, Input* tile) {
    if constexpr (COPIED<V>) {
        typedef Layout<typename V::Side> Layout;
        Input* to = tile + Layout::place(side.line_in_tile(0), side.depth_in_tile(0));
        side.each(p, [&](int i) {
            auto entry = side.at(p, i, 0, left);
            int place = Layout::place(V::line_in_pass(i), V::depth_in_pass(i));
            cp_async16_kept(to + place, entry.from, entry.inside);
        });
    } else {
        side.load(p, left);
    }
}
template <class V> __device__ void to_shared(const V& side, Input* tile) {
    if constexpr (COPIED<V>) return;
    side.store([=](int line, int d, auto v) {
        *(decltype(v)*)&tile[Layout<typename V::Side>::place(line, d)] = v;
    });
}
__device__ inline void await_tile() {
#if __CUDA_ARCH__ >= 800
    cp_async_commit();
    cp_async_wait<STAGES - 2>();
#endif
}

struct Tile {
    static constexpr int numbers = 64;  // sums of each thread
    float sums[8][8];
    __device__ float& number(int i) { return sums[i / 8][i % 8]; }
    // The groups of rows and columns. Lanes i and i ^ 1 have the same rows, i and i ^ 2 the same
    // columns: so shared memory answers vectors of 16 bytes in two passes instead of four.
    __device__ static int down() {
        return threadIdx.x / 2 % 2 + threadIdx.x / (COLUMNS / 4) * 2;
    }
    __device__ static int right() {
        return threadIdx.x % 2 + threadIdx.x / 4 % (COLUMNS / 16) * 2;
    }
    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < numbers; i++) sums[i / 8][i % 8] = 0.0f;
    }
    // Add the products of two tiles in shared memory: for each depth 64 with 16 numbers read.
    template <class P> __device__ void multiply(const float* a, const float* b) {
#pragma unroll
        for (int d = 0; d < DEPTH; d += 4) {
            float rows[4][8], columns[4][8];
            Layout<SideA<P>>::load(rows, a, down(), d);
            Layout<SideB<P>>::load(columns, b, right(), d);
#pragma unroll
            for (int n = 0; n < 4 * 64; n++) {  // column by column, or depth by depth, as loaded
                int k = SideB<P>::along_depth ? n / 8 % 4 : n / 64, i = n % 8;
                int j = SideB<P>::along_depth ? n / 32 : n / 8 % 8;
                sums[i][j] += rows[k][i] * columns[k][j];
            }
        }
    }
    template <class P> __device__ void store(const P& p, float*, int row0, int column0) const {
        typedef Vector<float, Layout<SideB<P>>::NEAR> Near;
#pragma unroll
        for (int n = 0; n < numbers; n += Near::length) {
            int row = row0 + Layout<SideA<P>>::number(down(), n / 8);
            int column = column0 + Layout<SideB<P>>::number(right(), n % 8);
            Near near;
#pragma unroll
            for (int i = 0; i < Near::length; i++) near.at[i] = sums[n / 8][n % 8 + i];
            store_within(p, p.stores_vectors(), row, column, near);
        }
    }
};

#include "tiled.cuh"

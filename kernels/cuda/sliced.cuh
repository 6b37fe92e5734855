// A product with few tiles and a great depth, computed by a Tile (tiled.cuh): each slice of the
// depth has its own block, and the last block to finish adds up the sums of all slices, always in
// the same order.
#ifndef SLICED
#define SLICED
#include "last_block.cuh"

// Compute one slice of a tile. parts [slices, tiles, Tile::numbers, THREADS]: each thread's sums.
// The same thread of the last block has the same entries in the same order. add_more(sums, row0,
// column0) is called for the last slice.
template <class P, class More>
__device__ inline void sliced_tile(const P& p, float* memory, float* parts, unsigned* counters,
                                   int tile, int tiles, int slice, int slices, More add_more) {
    int tiles_down = (p.rows() + TILE - 1) / TILE;
    int row0 = tile % tiles_down * TILE, column0 = tile / tiles_down * COLUMNS;
    int length = ((p.depth() + slices - 1) / slices + DEPTH - 1) / DEPTH * DEPTH;
    int start = slice * length, end = min(start + length, p.depth());
    Tile sums;
    sums.clear();
    add_up(sums, p, memory, row0, column0, start, end);
    if (slice == slices - 1) add_more(sums, row0, column0);
    if (slices > 1) {
        long long mine = (long long)tile * Tile::numbers * THREADS + threadIdx.x;
        long long step = (long long)tiles * Tile::numbers * THREADS;
#pragma unroll
        for (int i = 0; i < Tile::numbers; i++) {
            parts[slice * step + mine + i * THREADS] = sums.number(i);
        }
        if (!last_block(counters + tile, slices)) return;
        sums.clear();
        for (int s = 0; s < slices; s++) {  // outside: the loads of a slice do not wait for sums
#pragma unroll
            for (int i = 0; i < Tile::numbers; i++) {
                sums.number(i) += __ldcg(parts + s * step + mine + i * THREADS);
            }
        }
    }
    sums.store(p, memory, row0, column0);
}

template <class P>
__device__ inline void sliced_tile(const P& p, float* memory, float* parts, unsigned* counters,
                                   int tile, int tiles, int slice, int slices) {
    sliced_tile(p, memory, parts, counters, tile, tiles, slice, slices, [](Tile&, int, int) {});
}

// Compute a product of gridDim.z slices; counters: one for each tile, zero on entry and on exit.
// grid (ceil(rows / TILE), ceil(columns / COLUMNS), slices), block (THREADS)
template <class P>
__device__ inline void sliced_product(const P& p, float* parts, unsigned* counters) {
    __shared__ __align__(32) float memory[MEMORY];
    sliced_tile(p, memory, parts, counters, blockIdx.x + blockIdx.y * gridDim.x,
                gridDim.x * gridDim.y, blockIdx.z, gridDim.z);
}
#endif

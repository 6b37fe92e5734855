// What a block of a backward computes: a tile of gw or gx by a Tile (tiled.cuh), or a sum of gy.
//
// gw has few tiles with long sums, which sliced.cuh divides between blocks. The gradient of the
// bias is summed over images by the last block, too. Unrolled loops have many loads under way.
#include "sliced.cuh"

// Sum gy for 32 channels: gshift [N, K] over the pixels of image n, gbias [K] over all images.
__device__ inline void sum_pixels(const float* gy, float* gshift, float* gbias, unsigned* counters,
                                  float* memory, int group, int n, const Sizes& s) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, k = group * 32 + lane;
    const int WARPS = THREADS / 32;
    int P = s.OH * s.OW;
    float sum = 0.0f;
    if (k < s.K) {
#pragma unroll 16
        for (int p = warp; p < P; p += WARPS) sum += gy[((long long)n * P + p) * s.K + k];
    }
    memory[threadIdx.x] = sum;
    __syncthreads();
    if (warp == 0 && k < s.K) {
        for (int w = 1; w < WARPS; w++) sum += memory[w * 32 + lane];
        gshift[(long long)n * s.K + k] = sum;
    }
    if (!last_block(counters + group, s.N) || warp > 0 || k >= s.K) return;
    sum = 0.0f;
#pragma unroll 16
    for (int i = 0; i < s.N; i++) sum += __ldcg(gshift + (long long)i * s.K + k);
    gbias[k] = sum;
}

// Each of these computes what the block is for and returns true, or passes by its own blocks.
template <class P>
__device__ inline bool tile_of_gw(const P& p, int& block, int tiles, int slices, float* memory,
                                  float* parts, unsigned* counters) {
    if (block < tiles * slices) {
        sliced_tile(p, memory, parts, counters, block % tiles, tiles, block / tiles, slices);
        return true;
    }
    block -= tiles * slices;
    return false;
}
__device__ inline bool sum_of_gy(const float* gy, float* gshift, float* gbias, int& block,
                                 float* memory, unsigned* counters, const Sizes& s) {
    int groups = (s.K + 31) / 32;
    if (block < s.N * groups) {
        sum_pixels(gy, gshift, gbias, counters, memory, block / s.N, block % s.N, s);
        return true;
    }
    block -= s.N * groups;
    return false;
}
__device__ inline bool tile_of_gx(const GradientX& p, int& block, float* memory) {
    int down = (p.rows() + TILE - 1) / TILE, tiles = down * ((p.columns() + COLUMNS - 1) / COLUMNS);
    if (block < tiles) {
        int row0 = block % down * TILE, column0 = block / down * COLUMNS;
        Tile sums;
        sums.clear();
        add_up(sums, p, memory, row0, column0, 0, p.depth());
        sums.store(p, memory, row0, column0);
        return true;
    }
    block -= tiles;
    return false;
}

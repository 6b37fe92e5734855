// The gradients that are sums over all pixels of all images, computed by a Tile (tiled.cuh).
//
// gw has few tiles with long sums. So each slice of the pixels has its own block, and the last
// block to finish adds up the sums of all slices, always in the same order. The gradient of the
// bias is summed over images in the same way.
#include "last_block.cuh"

// Compute one slice of a tile of gw. parts [slices, tiles, Tile::numbers, THREADS]: each thread's
// sums. The same thread of the last block has the same entries in the same order.
__device__ inline void weight_tile(const GradientW& p, float* memory, float* parts,
                                   unsigned* counters, int tile, int tiles, int slice, int slices) {
    int tiles_down = (p.rows() + TILE - 1) / TILE;
    int row0 = tile % tiles_down * TILE, column0 = tile / tiles_down * COLUMNS;
    int length = ((p.depth() + slices - 1) / slices + DEPTH - 1) / DEPTH * DEPTH;
    int start = slice * length, end = min(start + length, p.depth());
    Tile sums;
    sums.clear();
    add_up(sums, p, memory, row0, column0, start, end);
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

// Sum gy for 32 channels: gshift [N, K] over the pixels of image n, gbias [K] over all images.
__device__ inline void sum_pixels(const float* gy, float* gshift, float* gbias, unsigned* counters,
                                  float* memory, int group, int n, const Sizes& s) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, k = group * 32 + lane;
    const int WARPS = THREADS / 32;
    int P = s.OH * s.OW;
    float sum = 0.0f;
    if (k < s.K) {
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
    for (int i = 0; i < s.N; i++) sum += __ldcg(gshift + (long long)i * s.K + k);
    gbias[k] = sum;
}

// Rung 4: each thread has 4 x 4 results in registers, and numbers come four at a time.
//
// Rung 3 reads two numbers of shared memory for each multiplication. Here a thread reads 4 + 4, as
// two vectors, for 16. While a tile is multiplied the next one is already on its way: fetched into
// registers before, written to the other half of shared memory after (double buffering), so that
// one barrier per tile is enough.
//
// The backward is one launch of three kinds of blocks, which need nothing of each other: tiles of
// gx, tiles of gw, and the sums of gy that are the gradients of bias and shift. gw has few tiles,
// each a sum over all pixels of all pictures: slices of pixels go to blocks of their own, and the
// last of them to be done adds up what all have found, always in the same order.
#include "convolution.cuh"
#include "product.cuh"

#include "conv2d.cuh"
#include "last_block.cuh"

// One slice of a tile of gw. parts [slices, tiles, 16, THREADS]: each thread's own 16 sums.
__device__ inline void weight_tile(const GradientW& p, float* memory, float* parts,
                                   unsigned* counters, int tile, int tiles, int slice, int slices) {
    int tiles_down = (p.rows() + TILE - 1) / TILE;
    int row0 = tile % tiles_down * TILE, column0 = tile / tiles_down * COLUMNS;
    int length = ((p.depth() + slices - 1) / slices + DEPTH - 1) / DEPTH * DEPTH;
    int start = slice * length, end = min(start + length, p.depth());
    Tile sums;
    sums.add_up(p, memory, row0, column0, start, end);
    if (slices > 1) {
        long long mine = (long long)tile * 16 * THREADS + threadIdx.x;
        long long step = (long long)tiles * 16 * THREADS;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            parts[slice * step + mine + i * THREADS] = sums.sums[i / 4][i % 4];
        }
        if (!last_block(counters + tile, slices)) return;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            float sum = 0.0f;
            for (int s = 0; s < slices; s++) sum += __ldcg(parts + s * step + mine + i * THREADS);
            sums.sums[i / 4][i % 4] = sum;
        }
    }
    sums.store(p, row0, column0);
}

// gshift [N, K]: gy summed over the pixels of image n, for 32 channels; gbias [K]: over all images.
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

// Grid (tiles of gx, or 0, + tiles of gw * slices + N * ceil(K / 32)), block (THREADS).
// counters [tiles of gw + ceil(K / 32)]: zero, and zero again afterwards.
extern "C" __global__ void __launch_bounds__(THREADS)
conv2d_gradients(const float* gy, const float* x1, const float* x2, int C1, int up, const float* w,
                 float* gx1, float* gx2, float* gw, float* gshift, float* gbias, float* parts,
                 unsigned* counters, int tiles_x, int tiles_w, int slices, SIZES) {
    __shared__ __align__(16) float memory[MEMORY];
    Sizes sizes = GIVEN;
    int block = blockIdx.x;
    if (block < tiles_x) {
        GradientX p = {gy, w, gx1, gx2, C1, sizes};
        int tiles_down = (p.rows() + TILE - 1) / TILE;
        int row0 = block % tiles_down * TILE, column0 = block / tiles_down * COLUMNS;
        Tile sums;
        sums.add_up(p, memory, row0, column0, 0, p.depth());
        sums.store(p, row0, column0);
        return;
    }
    block -= tiles_x;
    if (block < tiles_w * slices) {
        weight_tile({gy, {x1, x2, C1, up}, gw, sizes}, memory, parts, counters, block % tiles_w,
                    tiles_w, block / tiles_w, slices);
        return;
    }
    block -= tiles_w * slices;
    sum_pixels(gy, gshift, gbias, counters + tiles_w, memory, block / N, block % N, sizes);
}

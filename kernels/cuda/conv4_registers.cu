// Rung 4: each thread has 4 x 4 results in registers, and numbers come four at a time.
//
// Rung 3 reads two numbers of shared memory for each multiplication. Here a thread reads 4 + 4, as
// two vectors, for 16. While a tile is multiplied the next one is already on its way: fetched into
// registers before, written to the other half of shared memory after (double buffering), so that
// one barrier per tile is enough.
//
// The backward is one launch of three kinds of blocks, which need nothing of each other: tiles of
// gx, tiles of gw, and the sums of gy that are the gradients of bias and shift (gradients.cuh).
#include "convolution.cuh"
#include "product.cuh"

#include "conv2d.cuh"
#include "gradients.cuh"

// Grid (tiles of gx, or 0, + tiles of gw * slices + N * ceil(K / 32)), block (THREADS).
// counters [tiles of gw + ceil(K / 32)]: zero, and zero again afterwards.
extern "C" __global__ void __launch_bounds__(THREADS)
conv2d_gradients(const float* gy, const float* x1, const float* x2, int C1, int up, const float* w,
                 const float* plus1, const float* plus2, float* gx1, float* gx2, float* gw,
                 float* gshift, float* gbias, float* parts, unsigned* counters, int tiles_x,
                 int tiles_w, int slices, SIZES) {
    __shared__ __align__(16) float memory[MEMORY];
    Sizes sizes = GIVEN;
    int block = blockIdx.x;
    if (block < tiles_x) {
        GradientX p = {gy, w, plus1, plus2, gx1, gx2, C1, up, sizes};
        int tiles_down = (p.rows() + TILE - 1) / TILE;
        int row0 = block % tiles_down * TILE, column0 = block / tiles_down * COLUMNS;
        Tile sums;
        sums.clear();
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

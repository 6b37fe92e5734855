// The complete backward of a convolution in one launch of three independent kinds of blocks: tiles
// of gw, the sums of gy that are the gradients of bias and shift, and tiles of gx. A GPU starts the
// first blocks first. These take the longest, so that the short ones at the end fill the gaps.
#include "gradients.cuh"

// Grid (tiles of gw * slices + N * ceil(K / 32) + tiles of gx, or 0), block (THREADS).
// counters [tiles of gw + ceil(K / 32)]: zero on entry and on exit.
extern "C" __global__ void __launch_bounds__(BOUNDS_X)
conv2d_gradients(const float* gy, const Stored* x1, const Stored* x2, int C1,
                 const float* w, const float* partial1, const float* partial2, float* gx1,
                 float* gx2, float* gw, float* gshift, float* gbias, float* parts,
                 unsigned* counters, int tiles_w, int slices, SIZES) {
    __shared__ __align__(32) float memory[MEMORY];
    Sizes sizes = GIVEN;
    int block = blockIdx.x;
    if (block < tiles_w * slices) {
        GradientW p = {gy, {x1, x2, C1}, gw, sizes};
        sliced_tile(p, memory, parts, counters, block % tiles_w, tiles_w, block / tiles_w, slices);
        return;
    }
    block -= tiles_w * slices;
    int groups = (K + 31) / 32;
    if (block < N * groups) {
        sum_pixels(gy, gshift, gbias, counters + tiles_w, memory, block / N, block % N, sizes);
        return;
    }
    block -= N * groups;
    GradientX p = {gy, w, partial1, partial2, gx1, gx2, C1, sizes};
    int tiles_down = (p.rows() + TILE - 1) / TILE;
    int row0 = block % tiles_down * TILE, column0 = block / tiles_down * COLUMNS;
    Tile sums;
    sums.clear();
    add_up(sums, p, memory, row0, column0, 0, p.depth());
    sums.store(p, memory, row0, column0);
}

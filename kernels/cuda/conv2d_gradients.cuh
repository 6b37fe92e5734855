// The complete backward of a convolution in one launch of three independent kinds of blocks: tiles
// of gw, the sums of gy that are the gradients of bias and shift, and tiles of gx. A GPU starts the
// first blocks first. These take the longest, so that the short ones at the end fill the gaps.
#include "bounds.cuh"
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
    GradientW of_w = {gy, {x1, x2, C1}, gw, sizes};
    if (tile_of_gw(of_w, block, tiles_w, slices, memory, parts, counters)) return;
    if (sum_of_gy(gy, gshift, gbias, block, memory, counters + tiles_w, sizes)) return;
    GradientX of_x = {gy, w, partial1, partial2, gx1, gx2, C1, sizes};
    tile_of_gx(of_x, block, memory);
}

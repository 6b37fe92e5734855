// A convolution and the linear layer of a residual path, whose result is added to it, as one product:
// the depth of a tile goes on in the other layer. So the residual image is never in memory, and the
// backward, for which both layers have the same gy, sums it once for both biases.
//
// h is the convolution's only input. x has two parts, as in convolution.cuh, and float32 numbers,
// even if h is stored in 16 bits. Names that end in 2 are those of the linear layer.
#include "bounds.cuh"
#include "gradients.cuh"

#ifndef BOUNDS_SHORTCUT
#define BOUNDS_SHORTCUT BOUNDS_X  // of the gradients, which need the most registers
#endif
#define SIZES_2 {N, 1, OH * OW, C_2, 1, OH * OW, K, 1, 1, 1, 0, 0, vector_2}

struct TwoLayers : Forward {
    const float* bias_2;
    __device__ bool stores_vectors() const { return Forward::stores_vectors() && aligned(bias_2); }
    template <class V> __device__ void store(int row, int k, V values) const {
        add(values, bias_2 + k);
        Forward::store(row, k, values);
    }
};

// grid (ceil(rows / TILE), ceil(columns / COLUMNS), slices), block (THREADS). Three blocks are to
// fit on a multiprocessor; from sm_90 on the compiler would spill registers for that.
extern "C" __global__ void __launch_bounds__(THREADS, __CUDA_ARCH__ < 900 ? 3 : 2)
conv2d_shortcut(const Stored* h, const float* w, const float* bias, const float* shift, float* y,
                const float* x1, const float* x2, int C1, int C_2, const float* w_2,
                const float* bias_2, int vector_2, float* parts, unsigned* counters, SIZES) {
    __shared__ __align__(32) float memory[MEMORY];
    TwoLayers p = {{{h, nullptr, C}, w, bias, shift, nullptr, y, GIVEN}, bias_2};
    ForwardOf<float> p_2 = {{x1, x2, C1}, w_2, nullptr, nullptr, nullptr, nullptr, SIZES_2};
    auto add_shortcut = [&](Tile& sums, int row0, int column0) {
        add_up(sums, p_2, memory, row0, column0, 0, C_2);
    };
    sliced_tile(p, memory, parts, counters, blockIdx.x + blockIdx.y * gridDim.x,
                gridDim.x * gridDim.y, blockIdx.z, gridDim.z, add_shortcut);
}

// Grid: the tiles of gw * slices, those of gw_2 * slices_2, N * ceil(K / 32), tiles of gh and of gx.
// counters [tiles_w + tiles_w_2 + ceil(K / 32)]: zero on entry and on exit.
extern "C" __global__ void __launch_bounds__(BOUNDS_SHORTCUT)
conv2d_shortcut_gradients(const float* gy, const Stored* h, const float* w, float* gh, float* gw,
                          float* gshift, float* gbias, const float* x1, const float* x2, int C1,
                          int C_2, const float* w_2, const float* partial1, const float* partial2,
                          float* gx1, float* gx2, float* gw_2, int vector_2, float* parts,
                          float* parts_2, unsigned* counters, int tiles_w, int slices,
                          int tiles_w_2, int slices_2, SIZES) {
    __shared__ __align__(32) float memory[MEMORY];
    Sizes sizes = GIVEN, sizes_2 = SIZES_2;
    int block = blockIdx.x;
    GradientW of_w = {gy, {h, nullptr, C}, gw, sizes};
    if (tile_of_gw(of_w, block, tiles_w, slices, memory, parts, counters)) return;
    counters += tiles_w;
    GradientWOf<float> of_w_2 = {gy, {x1, x2, C1}, gw_2, sizes_2};
    if (tile_of_gw(of_w_2, block, tiles_w_2, slices_2, memory, parts_2, counters)) return;
    counters += tiles_w_2;
    if (sum_of_gy(gy, gshift, gbias, block, memory, counters, sizes)) return;
    GradientX of_h = {gy, w, nullptr, nullptr, gh, nullptr, C, sizes};
    if (tile_of_gx(of_h, block, memory)) return;
    GradientX of_x = {gy, w_2, partial1, partial2, gx1, gx2, C1, sizes_2};
    tile_of_gx(of_x, block, memory);
}

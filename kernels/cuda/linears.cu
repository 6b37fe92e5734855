// Several linear layers of one x in one launch: attention's three projections, and all residual
// blocks' projections of the time embedding. Each alone would be too small to fill a GPU.
//
// A table among the arguments has the addresses of each layer's arrays, so that a CUDA graph contains
// it; rung 4's tile computes the products.
#include "convolution.cuh"
#include "product.cuh"

#include "gradients.cuh"

#define LINEAR(K) {N, 1, P, C, 1, P, K, 1, 1, 1, 0, 0, vector}  // a Sizes: P rows for each of N

__device__ inline int tiles(int n, int size) { return (n + size - 1) / size; }

const int LAYERS = 48;  // of a launch, in linear.py, too

struct Layer {  // start: the columns of all layers before it
    const float *w, *bias;
    int K, start;
};

struct Layers {
    Layer layer[LAYERS];
};

// grid (ceil(N P / TILE), all layers' ceil(K / COLUMNS)). x [N, P, C]; y: each layer's [N, P, K].
extern "C" __global__ void __launch_bounds__(BOUNDS_X)
linears(const float* x, Layers layers, float* y, int N, int P, int C, int vector) {
    __shared__ __align__(32) float memory[MEMORY];
    int tile = blockIdx.y, i = 0;
    for (; tile >= tiles(layers.layer[i].K, COLUMNS); i++) {
        tile -= tiles(layers.layer[i].K, COLUMNS);
    }
    const Layer& layer = layers.layer[i];
    Forward p = {{x, nullptr, C}, layer.w, layer.bias, nullptr, nullptr,
                 y + (long long)N * P * layer.start, LINEAR(layer.K)};
    Tile sums;
    sums.clear();
    add_up(sums, p, memory, blockIdx.x * TILE, tile * COLUMNS, 0, C);
    sums.store(p, memory, blockIdx.x * TILE, tile * COLUMNS);
}

struct LayerBackward {  // gbias is the sum of gshift [N, K]
    const float *gy, *w;
    float *gw, *gshift, *gbias;
    int K;
};

struct LayersBackward {
    LayerBackward layer[LAYERS];
};

// Grid: the tiles of gx; for each layer its tiles of gw * slices; for each layer N * ceil(K / 32).
// counters: one for each tile of gw, and one for each 32 columns; partial is added to gx.
extern "C" __global__ void __launch_bounds__(BOUNDS_X)
linears_backward(const float* x, LayersBackward table, const float* partial, float* gx,
                 float* parts, unsigned* counters, int layers, int slices, int N, int P, int C,
                 int vector) {
    __shared__ __align__(32) float memory[MEMORY];
    int block = blockIdx.x, down = tiles(N * P, TILE), tiles_x = down * tiles(C, COLUMNS);
    if (block < tiles_x) {
        int row0 = block % down * TILE, column0 = block / down * COLUMNS;
        Tile sums;
        sums.clear();
        GradientX p = {nullptr, nullptr, partial, nullptr, gx, nullptr, C, LINEAR(0)};
        for (int i = 0; i < layers; i++) {
            p.gy = table.layer[i].gy, p.w = table.layer[i].w, p.s.K = table.layer[i].K;
            add_up(sums, p, memory, row0, column0, 0, p.depth());
        }
        sums.store(p, memory, row0, column0);
        return;
    }
    block -= tiles_x;
    int all = 0;  // tiles of gw of the previous layers; after the loop, of all layers
    for (int i = 0; i < layers; i++) {
        int K = table.layer[i].K, mine = tiles(C, TILE) * tiles(K, COLUMNS);
        if (block >= 0 && block < mine * slices) {
            GradientW p = {table.layer[i].gy, {x, nullptr, C}, table.layer[i].gw, LINEAR(K)};
            long long before = (long long)all * slices * Tile::numbers * THREADS;
            sliced_tile(p, memory, parts + before, counters + all, block % mine, mine,
                        block / mine, slices);
            return;
        }
        block -= mine * slices;
        all += mine;
    }
    counters += all;
    for (int i = 0; i < layers; i++) {
        int K = table.layer[i].K, groups = tiles(K, 32);
        if (block < N * groups) {
            const LayerBackward& layer = table.layer[i];
            sum_pixels(layer.gy, layer.gshift, layer.gbias, counters, memory, block / N, block % N,
                       LINEAR(K));
            return;
        }
        block -= N * groups;
        counters += groups;
    }
}

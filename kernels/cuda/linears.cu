// Several linear layers of one x in one launch: attention's three projections, and all residual
// blocks' projections of the time embedding. Each alone would be too small to fill a GPU.
//
// A table in memory has the addresses of each layer's arrays; rung 4's tile computes the products.
#include "convolution.cuh"
#include "product.cuh"

#include "gradients.cuh"

#define LINEAR(K) {N, 1, P, C, 1, P, K, 1, 1, 1, 0, 0, vector}  // a Sizes: P rows for each of N

__device__ inline int tiles(int n, int size) { return (n + size - 1) / size; }

struct Layer {  // a line of the forward's table; start: the columns of all layers before it
    unsigned long long w, bias, K, start;
};

// grid (ceil(N P / TILE), all layers' ceil(K / COLUMNS)). x [N, P, C]; y: each layer's [N, P, K].
extern "C" __global__ void __launch_bounds__(BOUNDS)
linears(const float* x, const unsigned long long* table, float* y, int N, int P, int C,
        int vector) {
    __shared__ __align__(32) float memory[MEMORY];
    const Layer* layer = (const Layer*)table;
    int tile = blockIdx.y;
    for (; tile >= tiles(layer->K, COLUMNS); layer++) tile -= tiles(layer->K, COLUMNS);
    Forward p = {{x, nullptr, C}, (const float*)layer->w, (const float*)layer->bias, nullptr,
                 nullptr, y + (long long)N * P * layer->start, LINEAR((int)layer->K)};
    Tile sums;
    sums.clear();
    add_up(sums, p, memory, blockIdx.x * TILE, tile * COLUMNS, 0, C);
    sums.store(p, memory, blockIdx.x * TILE, tile * COLUMNS);
}

// A line of the backward's table; gbias is the sum of gshift [N, K].
struct LayerBackward {
    unsigned long long gy, w, gw, gshift, gbias, K;
};

// Grid: the tiles of gx; for each layer its tiles of gw * slices; for each layer N * ceil(K / 32).
// counters: one for each tile of gw, and one for each 32 columns; partial is added to gx.
extern "C" __global__ void __launch_bounds__(BOUNDS)
linears_backward(const float* x, const unsigned long long* table, const float* partial, float* gx,
                 float* parts, unsigned* counters, int layers, int slices, int N, int P, int C,
                 int vector) {
    __shared__ __align__(32) float memory[MEMORY];
    const LayerBackward* layer = (const LayerBackward*)table;
    int block = blockIdx.x, down = tiles(N * P, TILE), tiles_x = down * tiles(C, COLUMNS);
    if (block < tiles_x) {
        int row0 = block % down * TILE, column0 = block / down * COLUMNS;
        Tile sums;
        sums.clear();
        GradientX p = {nullptr, nullptr, partial, nullptr, gx, nullptr, C, LINEAR(0)};
        for (int i = 0; i < layers; i++) {
            p.gy = (const float*)layer[i].gy, p.w = (const float*)layer[i].w;
            p.s.K = layer[i].K;
            add_up(sums, p, memory, row0, column0, 0, p.depth());
        }
        sums.store(p, memory, row0, column0);
        return;
    }
    block -= tiles_x;
    int all = 0;  // tiles of gw of the previous layers; after the loop, of all layers
    for (int i = 0; i < layers; i++) {
        int K = layer[i].K, mine = tiles(C, TILE) * tiles(K, COLUMNS);
        if (block >= 0 && block < mine * slices) {
            GradientW p = {(const float*)layer[i].gy, {x, nullptr, C}, (float*)layer[i].gw,
                           LINEAR(K)};
            long long before = (long long)all * slices * Tile::numbers * THREADS;
            weight_tile(p, memory, parts + before, counters + all, block % mine, mine,
                        block / mine, slices);
            return;
        }
        block -= mine * slices;
        all += mine;
    }
    counters += all;
    for (int i = 0; i < layers; i++) {
        int K = layer[i].K, groups = tiles(K, 32);
        if (block < N * groups) {
            sum_pixels((const float*)layer[i].gy, (float*)layer[i].gshift, (float*)layer[i].gbias,
                       counters, memory, block / N, block % N, LINEAR(K));
            return;
        }
        block -= N * groups;
        counters += groups;
    }
}

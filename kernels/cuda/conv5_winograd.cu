// Rung 5: Winograd F(4x4), 36 multiplications where the definition has 144.
//
//     Y = A^T [(G w G^T) * (B^T x B)] A            kernels/cpu/ladder/conv4_winograd.py derives it
//
// For 3 x 3 windows of stride 1. The transforms are separate kernels with one thread for each
// channel of a tile, so that a warp's lanes read neighbouring channels. Between them are 36 matrix
// products, one for each point, by the register tile of rung 4:
//
//     forward     V = B^T x B, U = G w G^T, M = V U at each point, y = A^T M A
//     gradient_x  the same for gy, with the window rotated by 180 degrees and C, K exchanged
//     gradient_w  D = A gy A^T, dU = V^T D at each point, gw = G^T dU G
//
// V, M, D: [36, tiles, channels]; tiles: of all images, tiles_h x tiles_w in each.
#include "plain.cuh"
#include "product.cuh"

// One-dimensional transforms of one vector, whose numbers are `step` apart: the products with B^T,
// A^T, G and their transposes, written out.
__device__ inline void bt(const float* x, float* y, int step) {
    float x0 = x[0], x1 = x[step], x2 = x[2 * step], x3 = x[3 * step], x4 = x[4 * step];
    float x5 = x[5 * step];
    y[0] = 4 * x0 - 5 * x2 + x4;
    y[step] = -4 * x1 - 4 * x2 + x3 + x4;
    y[2 * step] = 4 * x1 - 4 * x2 - x3 + x4;
    y[3 * step] = -2 * x1 - x2 + 2 * x3 + x4;
    y[4 * step] = 2 * x1 - x2 - 2 * x3 + x4;
    y[5 * step] = 4 * x1 - 5 * x3 + x5;
}

__device__ inline void at(const float* m, float* y, int step) {
    float sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    float sum2 = m[3 * step] + m[4 * step], difference2 = m[3 * step] - m[4 * step];
    float m0 = m[0], m5 = m[5 * step];
    y[0] = m0 + sum + sum2;
    y[step] = difference + 2 * difference2;
    y[2 * step] = sum + 4 * sum2;
    y[3 * step] = difference + 8 * difference2 + m5;
}

__device__ inline void a(const float* y, float* d, int step) {
    float y0 = y[0], y1 = y[step], y2 = y[2 * step], y3 = y[3 * step];
    d[0] = y0;
    d[step] = y0 + y1 + y2 + y3;
    d[2 * step] = y0 - y1 + y2 - y3;
    d[3 * step] = y0 + 2 * y1 + 4 * y2 + 8 * y3;
    d[4 * step] = y0 - 2 * y1 + 4 * y2 - 8 * y3;
    d[5 * step] = y3;
}

__device__ inline void g(const float* w, float* u, int step) {
    float w0 = w[0], w1 = w[step], w2 = w[2 * step];
    u[0] = w0 / 4;
    u[step] = -(w0 + w1 + w2) / 6;
    u[2 * step] = (-w0 + w1 - w2) / 6;
    u[3 * step] = w0 / 24 + w1 / 12 + w2 / 6;
    u[4 * step] = w0 / 24 - w1 / 12 + w2 / 6;
    u[5 * step] = w2;
}

__device__ inline void gt(const float* u, float* w, int step) {
    float sum = u[step] + u[2 * step], difference = u[2 * step] - u[step];
    float sum2 = u[3 * step] + u[4 * step], difference2 = u[3 * step] - u[4 * step];
    float u0 = u[0], u5 = u[5 * step];
    w[0] = u0 / 4 - sum / 6 + sum2 / 24;
    w[step] = difference / 6 + difference2 / 12;
    w[2 * step] = -sum / 6 + sum2 / 6 + u5;
}

// A thread's tile has 6 rows of 6. A transform from both sides transforms each column, then each
// row.
#define BOTH_SIDES(transform, tile, from_columns, to_rows)                            \
    for (int j = 0; j < (from_columns); j++) transform((tile) + j, (tile) + j, 6);    \
    for (int i = 0; i < (to_rows); i++) transform((tile) + 6 * i, (tile) + 6 * i, 1)

struct Place {
    int image, row, column;  // the tile's image, and its position counted in tiles
};

__device__ inline Place place(int tile, int tiles_h, int tiles_w) {
    return {tile / tiles_w / tiles_h, tile / tiles_w % tiles_h, tile % tiles_w};
}

// Grid (ceil(tiles / 8), ceil(C / 32)), block (32, 8). x [N, H, W, C] -> V [36, tiles, C].
// top, left: rows and columns of zeros before the image.
extern "C" __global__ void __launch_bounds__(256)
to_points(const float* x, float* v, int H, int W, int C, int tiles, int tiles_h, int tiles_w,
          int top, int left) {
    int c = blockIdx.y * 32 + threadIdx.x, t = blockIdx.x * 8 + threadIdx.y;
    if (c >= C || t >= tiles) return;
    Place p = place(t, tiles_h, tiles_w);
    float tile[36];
#pragma unroll
    for (int i = 0; i < 6; i++) {
#pragma unroll
        for (int j = 0; j < 6; j++) {
            int h = 4 * p.row + i - top, w = 4 * p.column + j - left;
            bool inside = h >= 0 && h < H && w >= 0 && w < W;
            tile[6 * i + j] = inside ? x[(((long long)p.image * H + h) * W + w) * C + c] : 0.0f;
        }
    }
#pragma unroll
    BOTH_SIDES(bt, tile, 6, 6);
#pragma unroll
    for (int i = 0; i < 36; i++) v[((long long)i * tiles + t) * C + c] = tile[i];
}

// The same grid. M [36, tiles, K] -> y [N, OH, OW, K] + bias [K] + shift [N, K] + extra, each of
// which may be null.
extern "C" __global__ void __launch_bounds__(256)
from_points(const float* m, const float* bias, const float* shift, const float* extra, float* y,
            int OH, int OW, int K, int tiles, int tiles_h, int tiles_w) {
    int k = blockIdx.y * 32 + threadIdx.x, t = blockIdx.x * 8 + threadIdx.y;
    if (k >= K || t >= tiles) return;
    Place p = place(t, tiles_h, tiles_w);
    float tile[36], b = bias ? bias[k] : 0.0f;
    if (shift) b += shift[(long long)p.image * K + k];
#pragma unroll
    for (int i = 0; i < 36; i++) tile[i] = m[((long long)i * tiles + t) * K + k];
    BOTH_SIDES(at, tile, 6, 4);
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int h = 4 * p.row + i, w = 4 * p.column + j;
            if (h < OH && w < OW) {
                long long to = (((long long)p.image * OH + h) * OW + w) * K + k;
                y[to] = tile[6 * i + j] + b + (extra ? extra[to] : 0.0f);
            }
        }
    }
}

// The same grid. gy [N, OH, OW, K] -> D [36, tiles, K].
extern "C" __global__ void __launch_bounds__(256)
gradient_to_points(const float* gy, float* d, int OH, int OW, int K, int tiles, int tiles_h,
                   int tiles_w) {
    int k = blockIdx.y * 32 + threadIdx.x, t = blockIdx.x * 8 + threadIdx.y;
    if (k >= K || t >= tiles) return;
    Place p = place(t, tiles_h, tiles_w);
    float tile[36];
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int h = 4 * p.row + i, w = 4 * p.column + j;
            bool inside = h < OH && w < OW;
            tile[6 * i + j] =
                inside ? gy[(((long long)p.image * OH + h) * OW + w) * K + k] : 0.0f;
        }
    }
    BOTH_SIDES(a, tile, 4, 6);
#pragma unroll
    for (int i = 0; i < 36; i++) d[((long long)i * tiles + t) * K + k] = tile[i];
}

// Grid (ceil(K / 32), ceil(C / 8)), block (32, 8). w [3, 3, C, K] -> U [36, C, K]; if turned, the
// window is rotated by 180 degrees -> U [36, K, C].
extern "C" __global__ void __launch_bounds__(256)
weights_to_points(const float* w, float* u, int C, int K, int turned) {
    int k = blockIdx.x * 32 + threadIdx.x, c = blockIdx.y * 8 + threadIdx.y;
    if (c >= C || k >= K) return;
    float tile[36];
#pragma unroll
    for (int i = 0; i < 3; i++) {
#pragma unroll
        for (int j = 0; j < 3; j++) {
            int tap = turned ? 3 * (2 - i) + 2 - j : 3 * i + j;
            tile[6 * i + j] = w[((long long)tap * C + c) * K + k];
        }
    }
    BOTH_SIDES(g, tile, 3, 6);
    int to = turned ? k * C + c : c * K + k;
#pragma unroll
    for (int i = 0; i < 36; i++) u[(long long)i * C * K + to] = tile[i];
}

// The same grid. dU [36, C, K] -> gw [3, 3, C, K].
extern "C" __global__ void __launch_bounds__(256)
weights_from_points(const float* du, float* gw, int C, int K) {
    int k = blockIdx.x * 32 + threadIdx.x, c = blockIdx.y * 8 + threadIdx.y;
    if (c >= C || k >= K) return;
    float tile[36];
#pragma unroll
    for (int i = 0; i < 36; i++) tile[i] = du[((long long)i * C + c) * K + k];
    BOTH_SIDES(gt, tile, 6, 3);
#pragma unroll
    for (int i = 0; i < 3; i++) {
#pragma unroll
        for (int j = 0; j < 3; j++) gw[((long long)(3 * i + j) * C + c) * K + k] = tile[6 * i + j];
    }
}

// Grid (ceil(tiles / TILE), ceil(K / COLUMNS), 36), block (THREADS): M = V U at each point.
extern "C" __global__ void __launch_bounds__(BOUNDS)
at_points(const float* v, const float* u, float* m, int tiles, int C, int K, int vector) {
    long long point = blockIdx.z;
    product(Plain{v + point * tiles * C, u + point * C * K, m + point * tiles * K, tiles, C, K,
                  vector});
}

// Grid (ceil(C / TILE), ceil(K / COLUMNS), 36): dU = V^T D at each point.
extern "C" __global__ void __launch_bounds__(BOUNDS)
weights_at_points(const float* v, const float* d, float* du, int tiles, int C, int K, int vector) {
    long long point = blockIdx.z;
    product(Turned{{v + point * tiles * C, d + point * tiles * K, du + point * C * K, C, tiles, K,
                    vector}});
}

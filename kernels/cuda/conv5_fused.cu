// Rung 5, fused: Winograd F(2x2), 16 multiplications where the definition has 36, in one kernel.
//
//     Y = A^T [(G w G^T) * (B^T x B)] A          2 x 2 results from 4 x 4 numbers of x
//
// For 3 x 3 windows of stride 1, and channels in multiples of four. conv5_winograd.cu has larger
// tiles, but all transformed numbers pass through memory. Here only the weights do. A block has 32
// tiles and 32 output channels. While all multiply, each warp at two of the 16 points, half of the
// threads fetch and transform the next four channels of x, the others fetch the next weights.
#define TILES 32    // of a block
#define COLUMNS 32  // output channels of a block
#define DEPTH 4     // channels of x at a time
#define POINTS 16
#define THREADS 256
#define SIDE (POINTS * DEPTH * 32)  // transformed x, or weights: [POINTS, DEPTH, 32]

// One-dimensional transforms of a vector, whose numbers are `step` apart: the products with B^T,
// A^T and G, written out.
__device__ inline void bt(float* x, int step) {
    float x0 = x[0], x1 = x[step], x2 = x[2 * step], x3 = x[3 * step];
    x[0] = x0 - x2;
    x[step] = x1 + x2;
    x[2 * step] = x2 - x1;
    x[3 * step] = x1 - x3;
}

__device__ inline void at(float* m, int step) {
    float m0 = m[0], m1 = m[step], m2 = m[2 * step], m3 = m[3 * step];
    m[0] = m0 + m1 + m2;
    m[step] = m1 - m2 - m3;
}

__device__ inline void g(float* w, int step) {
    float w0 = w[0], w1 = w[step], w2 = w[2 * step];
    w[step] = (w0 + w1 + w2) / 2;
    w[2 * step] = (w0 - w1 + w2) / 2;
    w[3 * step] = w2;
}

// Transform `columns` columns, then `rows` rows, of a tile with four rows of four.
#define BOTH_SIDES(transform, tile, columns, rows)                    \
    for (int j = 0; j < (columns); j++) transform((tile) + j, 4);     \
    for (int i = 0; i < (rows); i++) transform((tile) + 4 * i, 1)

// Grid (ceil(K / 32), ceil(C / 8)), block (32, 8). w [3, 3, C, K] -> U [16, C, K]; if turned, the
// window is rotated by 180 degrees -> U [16, K, C]. The weights of a block pass through shared
// memory, so that a warp reads 32 numbers of K and writes 8 of C: whole sectors of both arrays, if
// C and K are multiples of eight.
extern "C" __global__ void __launch_bounds__(THREADS)
weights_to_16(const float* w, float* u, int C, int K, int turned) {
    __shared__ float taps[9][8][36];  // 36: 8 numbers of C by 4 of K are in different banks
    int k = threadIdx.x, c = threadIdx.y, k0 = blockIdx.x * 32, c0 = blockIdx.y * 8;
    for (int tap = 0; tap < 9; tap++) {
        bool inside = c0 + c < C && k0 + k < K;
        taps[tap][c][k] = inside ? w[(tap * C + c0 + c) * K + k0 + k] : 0.0f;
    }
    __syncthreads();
    if (turned) k = threadIdx.y * 4 + threadIdx.x / 8, c = threadIdx.x % 8;
    if (c0 + c >= C || k0 + k >= K) return;
    float tile[POINTS];
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) {
            int tap = 3 * i + j;
            tile[4 * i + j] = taps[turned ? 8 - tap : tap][c][k];
        }
    }
    BOTH_SIDES(g, tile, 3, 4);
    int to = turned ? (k0 + k) * C + c0 + c : (c0 + c) * K + k0 + k;
    for (int i = 0; i < POINTS; i++) u[i * C * K + to] = tile[i];
}

struct Place {  // of a tile: its image, and its first result's row and column
    int image, h, w;

    __device__ Place(int tile, int tiles_h, int tiles_w) {
        int row = tile / tiles_w;
        image = row / tiles_h, h = row % tiles_h * 2, w = tile % tiles_w * 2;
    }
};

// What a thread fetches for four channels: the 4 x 4 numbers of one tile and one channel of x, or
// 16 weights, as four vectors.
struct Fetch {
    float numbers[POINTS];
    const float* from;
    int inside;  // a bit for each number of the tile that is in the image

    __device__ void load(int step, int row_step) {  // to the next column, and to the next row
        const float* at = from;
#pragma unroll
        for (int i = 0; i < POINTS; i++) {
            numbers[i] = inside >> i & 1 ? *at : 0.0f;
            at += i % 4 == 3 ? row_step : step;
        }
    }
    __device__ void load_weights(int step) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float4 four = inside ? *(const float4*)(from + i * step) : float4{};
            *(float4*)&numbers[4 * i] = four;
        }
    }
};

// Where in shared memory the transformed x of a channel and eight tiles begins: four channels of
// eight tiles, which a warp stores at once, are in different banks.
__device__ inline int eight_tiles(int point, int c, int eight) {
    return (point * DEPTH + c) * 32 + (eight ^ c) * 8;
}

// Grid (ceil(tiles / 32), ceil(K / 32)). y [N, OH, OW, K] = conv(x [N, H, W, C]) + bias [K] + shift
// [N, K] + extra, each of which may be null; u [16, C, K]; top, left: rows and columns of zeros.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
conv2d_fused(const float* x, const float* u, const float* bias, const float* shift,
             const float* extra, float* y, int H, int W, int C, int OH, int OW, int K, int tiles,
             int tiles_h, int tiles_w, int top, int left) {
    __shared__ __align__(16) float memory[2 * 2 * SIDE];
    int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    int first = blockIdx.x * TILES, k0 = blockIdx.y * COLUMNS;
    bool transforms = thread < THREADS / 2;
    Fetch next;
    int its_c = transforms ? lane % 4 : lane / 8, its_tile = thread / 4, column = lane % 8 * 4;
    if (transforms) {
        Place p(first + its_tile, tiles_h, tiles_w);
        int h = p.h - top, w = p.w - left;
        next.from = x + (((p.image * H + h) * W + w) * C + its_c);
        next.inside = 0;
#pragma unroll
        for (int i = 0; i < POINTS; i++) {
            bool row = h + i / 4 >= 0 && h + i / 4 < H, in = w + i % 4 >= 0 && w + i % 4 < W;
            next.inside |= (row && in && first + its_tile < tiles) << i;
        }
    } else {
        next.from = u + ((warp % 4 * C + its_c) * K + k0 + column);
        next.inside = k0 + column < K;
    }
    auto fetch = [&] {
        if (transforms) {
            next.load(C, (W - 3) * C);
            next.from += DEPTH;
        } else {
            next.load_weights(4 * C * K);  // of every fourth point
            next.from += DEPTH * K;
        }
    };
    auto store = [&](float* to) {
        if (transforms) {
            BOTH_SIDES(bt, next.numbers, 4, 4);
            float* at = to + its_tile % 8;
#pragma unroll
            for (int i = 0; i < POINTS; i++) {
                at[eight_tiles(i, its_c, its_tile / 8)] = next.numbers[i];
            }
        } else {
            float* at = to + SIDE + (warp % 4 * DEPTH + its_c) * 32 + column;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                *(float4*)(at + 4 * i * DEPTH * 32) = *(float4*)&next.numbers[4 * i];
            }
        }
    };

    // Sums of two points, eight tiles and four columns.
    float sums[2][8][4] = {};
    int eight = lane / 8;
    fetch();
    store(memory);
    __syncthreads();
    for (int c0 = 0, half = 0; c0 < C; c0 += DEPTH, half ^= 1) {
        asm volatile("" : "+r"(eight), "+r"(its_tile));  // else addresses are kept, and spilled
        bool more = c0 + DEPTH < C;
        if (more) fetch();
        const float *v = memory + half * 2 * SIDE, *weights = v + SIDE;
#pragma unroll
        for (int c = 0; c < DEPTH; c++) {
#pragma unroll
            for (int p = 0; p < 2; p++) {
                int point = 2 * warp + p;
                float a[8];
                *(float4*)&a[0] = *(const float4*)(v + eight_tiles(point, c, eight));
                *(float4*)&a[4] = *(const float4*)(v + eight_tiles(point, c, eight) + 4);
                float4 b = *(const float4*)(weights + (point * DEPTH + c) * 32 + column);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    sums[p][i][0] += a[i] * b.x;
                    sums[p][i][1] += a[i] * b.y;
                    sums[p][i][2] += a[i] * b.z;
                    sums[p][i][3] += a[i] * b.w;
                }
            }
        }
        if (more) store(memory + (half ^ 1) * 2 * SIDE);
        __syncthreads();
    }

    // Two of each thread's eight tiles at a time: [POINTS, 8 tiles, 32] pass through shared memory
    // to the threads that transform them, one for each tile and column.
    int k = k0 + lane;
    Place* places = (Place*)(memory + 2 * SIDE);
    if (thread < TILES) places[thread] = Place(first + thread, tiles_h, tiles_w);
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float* to = memory + ((2 * warp + j / 2) * 8 + eight * 2 + j % 2) * 32 + column;
            *(float4*)to = *(float4*)sums[j / 2][i + j % 2];
        }
        __syncthreads();
        float tile[POINTS];
#pragma unroll
        for (int j = 0; j < POINTS; j++) tile[j] = memory[(j * 8 + warp) * 32 + lane];
        BOTH_SIDES(at, tile, 4, 2);
        int number = warp / 2 * 8 + i + warp % 2;
        Place p = places[number];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int h = p.h + j / 2, w = p.w + j % 2;
            if (first + number < tiles && h < OH && w < OW && k < K) {
                int to = ((p.image * OH + h) * OW + w) * K + k;
                float value = tile[j / 2 * 4 + j % 2];
                if (bias) value += bias[k];
                if (shift) value += shift[p.image * K + k];
                y[to] = extra ? value + extra[to] : value;
            }
        }
        __syncthreads();
    }
}

// Attention without an L x L matrix in memory: the softmax is updated from tile to tile of keys.
//
//     s_j = c q . k_j;  p_j = e^(s_j - max) / sum;  y = sum_j p_j v_j;  c = 1 / sqrt(D)
//
// Each warp has one query. Keys pass through shared memory in tiles of 32, one key for each lane,
// so that a lane computes a full score without data from other lanes. Then the roles change: a lane
// has every 32nd of the D channels of the result. When a larger score appears, the sums over
// earlier tiles are multiplied by e^(old max - new max) (Milakov and Gimelshein 2018; Dao et al.
// 2022).
//
// The backward recomputes the scores, and from them p_j = e^(s_j - log sum e^s), of which the forward
// stores the logarithm of each query. The sum over keys in the gradient of the softmax needs no pass
// over them, because y is known (Dao 2023, FlashAttention-2):
//
//     gp_j = gy . v_j;  delta = sum_j p_j gp_j = gy . y;  gs_j = c p_j (gp_j - delta)
//     gq = sum_j gs_j k_j;  gk_j = sum over queries of gs_j q;  gv_j = sum over queries of p_j gy
//
// All arrays are [N, L, heads * D], D at most 256, but log_sums [N, heads, L]. Block (32, 7), grid
// (ceil(L / 7) heads N), twice as much for the gradients, in one dimension because the others end at
// 65,535; dynamic shared memory: 4 (32 (D + 1) + 14 D) bytes, one tile per block and two rows per
// warp.

#define WARPS 7  // 8 warps with D = 256 would need 128 bytes more than the 48 KB of every GPU
#define PARTS 8  // parts of 32 channels: D <= 256
#define INFINITE __uint_as_float(0x7f800000u)  // NVRTC has no header that defines it
#define EVERY(d, r) int r = 0, d = threadIdx.x; r < PARTS && d < D; r++, d += 32

// What a warp computes: the row (a query or a key) of head `number`, counted over all images; the
// head begins at `first` and its rows are `step` numbers apart.
struct Position {
    int row, number, step;
    long long first;
    __device__ Position(int block, int L, int D, int heads) {
        int tiles = (L + WARPS - 1) / WARPS;
        row = block % tiles * WARPS + threadIdx.y;
        number = block / tiles;
        step = heads * D;
        first = (long long)(number / heads) * L * step + number % heads * D;
    }
};

__device__ inline float warp_sum(float x) {
    for (int lanes = 16; lanes; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int lanes = 16; lanes; lanes /= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
    }
    return x;
}

// Load D channels of 32 rows, beginning with row `first`, into the tile [32, D + 1]; the + 1 puts
// rows into different banks. Rows beyond the last are zero.
__device__ inline void load_tile(const float* x, int first, int L, int step, int D, float* tile) {
    for (int r = threadIdx.y; r < 32; r += WARPS) {
        for (int d = threadIdx.x; d < D; d += 32) {
            int row = first + r;
            tile[r * (D + 1) + d] = row < L ? x[(long long)row * step + d] : 0.0f;
        }
    }
}

// Load a warp's own row.
__device__ inline void load_row(const float* x, int row, int L, int step, int D, float* to) {
    for (int d = threadIdx.x; d < D; d += 32) {
        to[d] = row < L ? x[(long long)row * step + d] : 0.0f;
    }
}

__device__ inline float dot(const float* row, const float* tile, int D) {
    float sum = 0.0f;
#pragma unroll 4  // unrolling more spills registers on some architectures
    for (int d = 0; d < D; d++) sum += row[d] * tile[threadIdx.x * (D + 1) + d];
    return sum;
}

// sums += the tile's rows, each multiplied by its lane's weight.
__device__ inline void add_rows(float weight, const float* tile, int D, float* sums) {
    for (int j = 0; j < 32; j++) {
        float w = __shfl_sync(0xffffffffu, weight, j);
#pragma unroll
        for (EVERY(d, r)) sums[r] += w * tile[j * (D + 1) + d];
    }
}

__device__ inline void store_row(float* x, int row, int L, int step, int D, const float* sums,
                                 float factor) {
    if (row >= L) return;
#pragma unroll
    for (EVERY(d, r)) x[(long long)row * step + d] = factor * sums[r];
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
attention(const float* q, const float* k, const float* v, float* y, float* log_sums, int L, int D,
          int heads) {
    extern __shared__ float memory[];
    float *tile = memory, *row = memory + 32 * (D + 1) + threadIdx.y * 2 * D;
    Position position(blockIdx.x, L, D, heads);
    int step = position.step, query = position.row;
    long long head = position.first;
    float scale = 1.0f / sqrtf((float)D), largest = -INFINITE, total = 0.0f, sums[PARTS] = {};
    load_row(q + head, query, L, step, D, row);
    for (int first = 0; first < L; first += 32) {
        __syncthreads();  // all threads are done with the tile
        load_tile(k + head, first, L, step, D, tile);
        __syncthreads();
        float s = first + threadIdx.x < L ? scale * dot(row, tile, D) : -INFINITE;
        float before = largest;
        largest = fmaxf(largest, warp_max(s));
        float shrink = expf(before - largest), p = expf(s - largest);
        total = total * shrink + warp_sum(p);
#pragma unroll
        for (int r = 0; r < PARTS; r++) sums[r] *= shrink;
        __syncthreads();
        load_tile(v + head, first, L, step, D, tile);
        __syncthreads();
        add_rows(p, tile, D, sums);
    }
    store_row(y + head, query, L, step, D, sums, 1.0f / total);
    if (threadIdx.x == 0 && query < L) {
        log_sums[(long long)position.number * L + query] = largest + logf(total);
    }
}

// What the blocks of both gradients take.
struct Backward {
    const float *gy, *q, *k, *v, *y, *log_sums;
    float *gq, *gk, *gv;
    int L, D;
};

// Compute gq; memory: a tile, then two rows for each warp.
__device__ inline void gradient_q(const Backward& b, const Position& position, float* memory) {
    int L = b.L, D = b.D, step = position.step, query = position.row;
    long long head = position.first;
    float *tile = memory, *row = memory + 32 * (D + 1) + threadIdx.y * 2 * D, *gradient = row + D;
    float scale = 1.0f / sqrtf((float)D), delta = 0.0f, log_sum = 0.0f, sums[PARTS] = {};
    load_row(b.q + head, query, L, step, D, row);
    load_row(b.gy + head, query, L, step, D, gradient);
    if (query < L) {
        for (int d = threadIdx.x; d < D; d += 32) {
            delta += gradient[d] * b.y[head + (long long)query * step + d];
        }
        log_sum = b.log_sums[(long long)position.number * L + query];
    }
    delta = warp_sum(delta);
    for (int first = 0; first < L; first += 32) {
        __syncthreads();
        load_tile(b.v + head, first, L, step, D, tile);
        __syncthreads();
        float gp = dot(gradient, tile, D);
        __syncthreads();
        load_tile(b.k + head, first, L, step, D, tile);
        __syncthreads();
        float p = first + threadIdx.x < L ? expf(scale * dot(row, tile, D) - log_sum) : 0.0f;
        add_rows(scale * p * (gp - delta), tile, D, sums);
    }
    store_row(b.gq + head, query, L, step, D, sums, 1.0f);
}

// Compute gk and gv with the roles exchanged: a warp has one key, a lane one query.
__device__ inline void gradient_kv(const Backward& b, const Position& position, float* memory) {
    __shared__ float deltas[32];  // of the tile's queries
    int L = b.L, D = b.D, step = position.step, key = position.row;
    long long head = position.first;
    float *tile = memory, *k_row = memory + 32 * (D + 1) + threadIdx.y * 2 * D, *v_row = k_row + D;
    float scale = 1.0f / sqrtf((float)D), gk_sums[PARTS] = {}, gv_sums[PARTS] = {};
    load_row(b.k + head, key, L, step, D, k_row);
    load_row(b.v + head, key, L, step, D, v_row);
    for (int first = 0; first < L; first += 32) {
        int query = first + threadIdx.x;
        float log_sum = query < L ? b.log_sums[(long long)position.number * L + query] : 0.0f;
        __syncthreads();
        load_tile(b.q + head, first, L, step, D, tile);
        __syncthreads();
        float p = expf(scale * dot(k_row, tile, D) - log_sum);  // beyond L, q and gy are zero
        __syncthreads();
        load_tile(b.gy + head, first, L, step, D, tile);
        __syncthreads();
        for (int r = threadIdx.y; r < 32 && first + r < L; r += WARPS) {
            float delta = 0.0f;
            for (int d = threadIdx.x; d < D; d += 32) {
                delta += tile[r * (D + 1) + d] * b.y[head + (long long)(first + r) * step + d];
            }
            delta = warp_sum(delta);
            if (threadIdx.x == 0) deltas[r] = delta;
        }
        __syncthreads();
        float gs = query < L ? scale * p * (dot(v_row, tile, D) - deltas[threadIdx.x]) : 0.0f;
        add_rows(p, tile, D, gv_sums);
        __syncthreads();
        load_tile(b.q + head, first, L, step, D, tile);
        __syncthreads();
        add_rows(gs, tile, D, gk_sums);
    }
    store_row(b.gk + head, key, L, step, D, gk_sums, 1.0f);
    store_row(b.gv + head, key, L, step, D, gv_sums, 1.0f);
}

// Without the 4 (blocks on a multiprocessor) the compiler keeps so few registers that it spills some.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 4)
attention_gradients(const float* gy, const float* q, const float* k, const float* v, const float* y,
                    const float* log_sums, float* gq, float* gk, float* gv, int L, int D,
                    int heads) {
    extern __shared__ float memory[];
    Backward arrays = {gy, q, k, v, y, log_sums, gq, gk, gv, L, D};
    int half = gridDim.x / 2, block = blockIdx.x;
    Position position(block % half, L, D, heads);
    if (block < half) {
        gradient_kv(arrays, position, memory);  // first, because it takes longer
    } else {
        gradient_q(arrays, position, memory);
    }
}

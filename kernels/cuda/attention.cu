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
// The backward recomputes the scores, and from them p, with each query's max and sum:
//
//     gp_j = gy . v_j;  delta = sum_j p_j gp_j;  gs_j = c p_j (gp_j - delta)
//     gq = sum_j gs_j k_j;  gk_j = sum over queries of gs_j q;  gv_j = sum over queries of p_j gy
//
// All arrays are [N, L, heads * D], D at most 256. Block (32, 7), grid (ceil(L / 7) heads N), in one
// dimension because the others end at 65,535; dynamic shared memory: 4 (32 (D + 1) + 14 D) bytes,
// one tile per block and two rows per warp.

#define WARPS 7  // 8 warps with D = 256 would need 128 bytes more than the 48 KB of every GPU
#define PARTS 8  // parts of 32 channels: D <= 256
#define INFINITE __uint_as_float(0x7f800000u)  // NVRTC has no header that defines it
#define EVERY(d, r) int r = 0, d = threadIdx.x; r < PARTS && d < D; r++, d += 32

// What a warp computes: the row (a query or a key) of head `number`, counted over all images; the
// head begins at `first` and its rows are `step` numbers apart.
struct Position {
    int row, number, step;
    long long first;
    __device__ Position(int L, int D, int heads) {
        int tiles = (L + WARPS - 1) / WARPS;
        row = blockIdx.x % tiles * WARPS + threadIdx.y;
        number = blockIdx.x / tiles;
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
attention(const float* q, const float* k, const float* v, float* y, int L, int D,
          int heads) {
    extern __shared__ float memory[];
    float *tile = memory, *row = memory + 32 * (D + 1) + threadIdx.y * 2 * D;
    Position position(L, D, heads);
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
}

// Compute gq, and for attention_gradient_kv each query's log(sum e^s) and delta:
// stats [N, heads, L, 2].
extern "C" __global__ void __launch_bounds__(32 * WARPS)
attention_gradient_q(const float* gy, const float* q, const float* k, const float* v, float* gq,
                     float* stats, int L, int D, int heads) {
    extern __shared__ float memory[];
    float *tile = memory, *row = memory + 32 * (D + 1) + threadIdx.y * 2 * D, *gradient = row + D;
    Position position(L, D, heads);
    int step = position.step, query = position.row;
    long long head = position.first;
    float scale = 1.0f / sqrtf((float)D), largest = -INFINITE, total = 0.0f, delta = 0.0f;
    load_row(q + head, query, L, step, D, row);
    load_row(gy + head, query, L, step, D, gradient);
    for (int first = 0; first < L; first += 32) {
        __syncthreads();
        load_tile(k + head, first, L, step, D, tile);
        __syncthreads();
        float s = first + threadIdx.x < L ? scale * dot(row, tile, D) : -INFINITE;
        __syncthreads();
        load_tile(v + head, first, L, step, D, tile);
        __syncthreads();
        float before = largest;
        largest = fmaxf(largest, warp_max(s));
        float shrink = expf(before - largest), p = expf(s - largest);
        total = total * shrink + warp_sum(p);
        delta = delta * shrink + warp_sum(p * dot(gradient, tile, D));
    }
    delta /= total;
    float log_total = largest + logf(total), sums[PARTS] = {};
    for (int first = 0; first < L; first += 32) {
        __syncthreads();
        load_tile(v + head, first, L, step, D, tile);
        __syncthreads();
        float gp = dot(gradient, tile, D);
        __syncthreads();
        load_tile(k + head, first, L, step, D, tile);
        __syncthreads();
        float p = first + threadIdx.x < L ? expf(scale * dot(row, tile, D) - log_total) : 0.0f;
        add_rows(scale * p * (gp - delta), tile, D, sums);
    }
    store_row(gq + head, query, L, step, D, sums, 1.0f);
    if (threadIdx.x == 0 && query < L) {
        float* to = stats + ((long long)position.number * L + query) * 2;
        to[0] = log_total;
        to[1] = delta;
    }
}

// Compute gk and gv with the roles exchanged: a warp has one key, a lane one query.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
attention_gradient_kv(const float* gy, const float* q, const float* k, const float* v,
                      const float* stats, float* gk, float* gv, int L, int D,
                      int heads) {
    extern __shared__ float memory[];
    float *tile = memory, *k_row = memory + 32 * (D + 1) + threadIdx.y * 2 * D, *v_row = k_row + D;
    Position position(L, D, heads);
    int step = position.step, key = position.row;
    long long head = position.first;
    const float* of_head = stats + (long long)position.number * L * 2;
    float scale = 1.0f / sqrtf((float)D), gk_sums[PARTS] = {}, gv_sums[PARTS] = {};
    load_row(k + head, key, L, step, D, k_row);
    load_row(v + head, key, L, step, D, v_row);
    for (int first = 0; first < L; first += 32) {
        int query = first + threadIdx.x;
        float log_total = query < L ? of_head[2 * query] : 0.0f;
        float delta = query < L ? of_head[2 * query + 1] : 0.0f;
        __syncthreads();
        load_tile(q + head, first, L, step, D, tile);
        __syncthreads();
        float p = expf(scale * dot(k_row, tile, D) - log_total);  // beyond L, q and gy are zero
        __syncthreads();
        load_tile(gy + head, first, L, step, D, tile);
        __syncthreads();
        float gs = scale * p * (dot(v_row, tile, D) - delta);
        add_rows(p, tile, D, gv_sums);
        __syncthreads();
        load_tile(q + head, first, L, step, D, tile);
        __syncthreads();
        add_rows(gs, tile, D, gk_sums);
    }
    store_row(gk + head, key, L, step, D, gk_sums, 1.0f);
    store_row(gv + head, key, L, step, D, gv_sums, 1.0f);
}

// Attention without an L x L matrix in memory: the softmax is updated from chunk to chunk of keys.
//
//     s_j = c q . k_j;  p_j = e^(s_j - max) / sum;  y = sum_j p_j v_j;  c = 1 / sqrt(D)
//
// LANES neighbouring lanes have one query. Each holds 8 channels of it and of its result in
// registers. Keys and values pass through shared memory, ROWS at a time, where all queries read the
// same key at once. When a chunk has a larger score than all before, the sums over earlier keys are
// multiplied by e^(old max - new max) (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// The backward recomputes the scores, and from them p_j = e^(s_j - log sum e^s), of which the forward
// stores the logarithm of each query. The sum over keys in the gradient of the softmax needs no pass
// over them, because y is known (Dao 2023, FlashAttention-2):
//
//     gp_j = gy . v_j;  delta = sum_j p_j gp_j = gy . y;  gs_j = c p_j (gp_j - delta)
//     gq = sum_j gs_j k_j;  gk_j = sum over queries of gs_j q;  gv_j = sum over queries of p_j gy
//
// A GPU has an instruction for 2^x: scores are multiplied by log2(e), and logarithms have base 2.
//
// All arrays are [N, L, heads * D], D at most 8 LANES, but log_sums [N, heads, L]. Block (THREADS),
// grid (ceil(L / ROWS) heads N), twice as much for the gradients, in one dimension because the others
// end at 65,535. vector: whether D and all addresses allow to read four numbers at once.

#ifndef LANES
#define LANES 1  // or another power of two up to 32
#endif
#define ROWS (LANES > 4 ? 256 / LANES : 64)  // of a block's queries, and of keys at a time
#define THREADS (ROWS * LANES)
#define LANE ((int)threadIdx.x % LANES)
#define CHUNK 8  // keys for which sums are multiplied once
#define LOG2_E 1.44269504f
#define INFINITE __uint_as_float(0x7f800000u)  // NVRTC has no header that defines it

// Numbers of a lane's 8 channels.
struct __align__(16) Part {
    float at[8];
    __device__ void multiply(float factor) {
#pragma unroll
        for (int c = 0; c < 8; c++) at[c] *= factor;
    }
    __device__ void add(float weight, const Part& x) {
#pragma unroll
        for (int c = 0; c < 8; c++) at[c] += weight * x.at[c];
    }
    // Exchange halves with the neighbouring lane: then the even lane has both first halves, the
    // odd one both second halves. A second exchange undoes it.
    __device__ void exchange_halves() {
        bool odd = threadIdx.x % 2;
#pragma unroll
        for (int c = 0; c < 4; c++) {
            float got = __shfl_xor_sync(~0u, odd ? at[c] : at[c + 4], 1);
            at[c] = odd ? got : at[c];
            at[c + 4] = odd ? at[c + 4] : got;
        }
    }
};

// The product of two rows; all lanes of a row return it.
__device__ inline float dot(const Part& x, const Part& y) {
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < 8; c++) sum += x.at[c] * y.at[c];
    for (int lanes = LANES / 2; lanes; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    return sum;
}

// ROWS rows in shared memory. Neighbouring lanes have neighbouring vectors, in different banks.
struct Tile {
    float4 halves[2][THREADS];
    __device__ void put(const Part& part) {
        halves[0][threadIdx.x] = *(const float4*)part.at;
        halves[1][threadIdx.x] = *(const float4*)(part.at + 4);
    }
    __device__ Part get(int row) const {
        Part part;
        *(float4*)part.at = halves[0][row * LANES + LANE];
        *(float4*)(part.at + 4) = halves[1][row * LANES + LANE];
        return part;
    }
};

// The head of a block: `number`, counted over all images. It begins at `first`, its rows are `step`
// numbers apart. A thread has row `own` of it, and loads every ROWS-th from `loaded` on.
struct Head {
    int L, D, vector, number, step, own, loaded = (int)threadIdx.x / LANES;
    long long first;
    __device__ Head(int block, int L, int D, int heads, int vector) : L(L), D(D), vector(vector) {
        int tiles = (L + ROWS - 1) / ROWS;
        number = block / tiles;
        step = heads * D;
        own = block % tiles * ROWS + loaded;
        first = (long long)(number / heads) * L * step + number % heads * D;
    }
    __device__ long long place(int row, int channel) const {
        return first + (long long)row * step + channel;
    }
    // Return the channel of this lane's i-th number: neighbouring lanes have neighbouring vectors.
    __device__ static int channel(int i) { return 4 * (LANE + i / 4 * LANES) + i % 4; }
    // Call move(i, place) for each number that this lane's part, in this row, has.
    template <class Move> __device__ void each(int row, Move move) const {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (row < L && channel(i) < D) move(i, place(row, channel(i)));
        }
    }
    // Call move(i, place) for two vectors of four, which place counts, so that a warp's fill whole
    // sectors of 32 bytes: if a lane has a row, for a half of the even lane's row (i = 0) and of the
    // odd lane's (i = 1), which the lanes exchange.
    template <class Move> __device__ void each_half(int row, Move move) const {
        int odd = threadIdx.x % 2;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int its_row = LANES == 1 ? row - odd + i : row;
            int its_channel = LANES == 1 ? 4 * odd : channel(4 * i);
            if (its_row < L && its_channel < D) move(i, place(its_row, its_channel) >> 2);
        }
    }
    __device__ Part load(const float* x, int row) const {
        Part part = {};
        if (!vector) {
            each(row, [&](int i, long long at) { part.at[i] = x[at]; });
            return part;
        }
        each_half(row, [&](int i, long long at) {
            ((float4*)part.at)[i] = ((const float4*)x)[at];
        });
        if (LANES == 1) part.exchange_halves();
        return part;
    }
    __device__ void store(float* x, Part part) const {
        if (!vector) {
            each(own, [&](int i, long long at) { x[at] = part.at[i]; });
            return;
        }
        if (LANES == 1) part.exchange_halves();
        each_half(own, [&](int i, long long at) {
            ((float4*)x)[at] = ((const float4*)part.at)[i];
        });
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
attention(const float* q, const float* k, const float* v, float* y, float* log_sums, int L, int D,
          int heads, int vector) {
    __shared__ Tile keys, values;
    Head head(blockIdx.x, L, D, heads, vector);
    Part query = head.load(q, head.own), sums = {};
    query.multiply(LOG2_E / sqrtf((float)D));
    float largest = -3.4e38f, total = 0.0f;  // finite: infinity minus infinity is NaN
    for (int first = 0; first < L; first += ROWS) {
        __syncthreads();  // all threads are done with the tiles
        keys.put(head.load(k, first + head.loaded));
        values.put(head.load(v, first + head.loaded));
        __syncthreads();
        int rows = min(ROWS, L - first);
#pragma unroll 1
        for (int chunk = 0; chunk < rows; chunk += CHUNK) {
            float s[CHUNK], before = largest;
#pragma unroll
            for (int j = 0; j < CHUNK; j++) s[j] = dot(query, keys.get(chunk + j));
            if (chunk + CHUNK > rows) {  // the last chunk
#pragma unroll
                for (int j = 0; j < CHUNK; j++) s[j] = chunk + j < rows ? s[j] : -INFINITE;
            }
#pragma unroll
            for (int j = 0; j < CHUNK; j++) largest = fmaxf(largest, s[j]);
            float shrink = exp2f(before - largest);
            total *= shrink;
            sums.multiply(shrink);
#pragma unroll
            for (int j = 0; j < CHUNK; j++) {
                float p = exp2f(s[j] - largest);
                total += p;
                sums.add(p, values.get(chunk + j));
            }
        }
    }
    sums.multiply(1.0f / total);
    head.store(y, sums);
    if (LANE == 0 && head.own < L) {
        log_sums[(long long)head.number * L + head.own] = largest + log2f(total);
    }
}

// What a block of the gradients has in shared memory.
struct Tiles {
    Tile left, right;
    float log_sums[ROWS], deltas[ROWS];
};

// A row on the left is a query or a key, on the right the query's gy or the key's value. Each thread
// has one of both and sums over the others: over keys to gq, or over queries to gk and gv.
template <bool OVER_QUERIES>
__device__ inline void gradients(const Head& head, Tiles& tiles, const float* log_sums,
                                 const float* y, const float* own_left, const float* own_right,
                                 const float* lefts, const float* rights, float* to_left,
                                 float* to_right) {
    float scale = 1.0f / sqrtf((float)head.D), log_sum = 0.0f, delta = 0.0f;
    Part left = head.load(own_left, head.own), right = head.load(own_right, head.own);
    Part left_sums = {}, right_sums = {};
    left.multiply(scale * LOG2_E);
    log_sums += (long long)head.number * head.L;
    if (!OVER_QUERIES) {
        if (head.own < head.L) log_sum = log_sums[head.own];
        delta = dot(right, head.load(y, head.own));
    }
    for (int first = 0; first < head.L; first += ROWS) {
        int row = first + head.loaded, rows = min(ROWS, head.L - first);
        __syncthreads();
        Part loaded = head.load(rights, row);
        tiles.left.put(head.load(lefts, row));
        tiles.right.put(loaded);
        if (OVER_QUERIES) {
            float loaded_delta = dot(loaded, head.load(y, row));
            if (LANE == 0 && row < head.L) {
                tiles.log_sums[head.loaded] = log_sums[row];
                tiles.deltas[head.loaded] = loaded_delta;
            }
        }
        __syncthreads();
#pragma unroll 4
        for (int j = 0; j < rows; j++) {
            Part other_left = tiles.left.get(j), other_right = tiles.right.get(j);
            if (OVER_QUERIES) log_sum = tiles.log_sums[j], delta = tiles.deltas[j];
            float p = exp2f(dot(left, other_left) - log_sum);
            left_sums.add(p * (dot(right, other_right) - delta), other_left);
            if (OVER_QUERIES) right_sums.add(p, other_right);
        }
    }
    left_sums.multiply(scale);
    head.store(to_left, left_sums);
    if (OVER_QUERIES) head.store(to_right, right_sums);
}

extern "C" __global__ void __launch_bounds__(THREADS)
attention_gradients(const float* gy, const float* q, const float* k, const float* v, const float* y,
                    const float* log_sums, float* gq, float* gk, float* gv, int L, int D, int heads,
                    int vector) {
    __shared__ Tiles tiles;
    int half = gridDim.x / 2, block = blockIdx.x;
    Head head(block % half, L, D, heads, vector);
    if (block < half) {  // first, because it takes longer
        gradients<true>(head, tiles, log_sums, y, k, v, q, gy, gk, gv);
    } else {
        gradients<false>(head, tiles, log_sums, y, q, gy, k, v, gq, nullptr);
    }
}

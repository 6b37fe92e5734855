// Group normalisation with or without SiLU. x [N, P, C]: P pixels, `size` channels per group.
//
// One block for each group of each image, in one dimension of the grid, because the others end at
// 65,535. The forward reads the group three times (mean, variance, result), the backward twice;
// after the first read it is usually cached. Sums pass between the threads of a warp by shuffles,
// and between warps through shared memory.
//
// x may be the concatenation of two parts: the first has C1 channels.
//
// With -DSTORED y is stored in 16 bits (narrow.cuh): the tensor-core convolution that reads it
// would round it anyway. All sums and the statistics are float32.
#include "last_block.cuh"
#ifdef STORED
#include "narrow.cuh"
typedef Narrow Stored;
__device__ inline Stored stored(float x) { return narrow(x); }
#else
typedef float Stored;
__device__ inline Stored stored(float x) { return x; }
#endif

#define WARPS 8
#define THREADS (32 * WARPS)

// Return the block-wide sum to every thread.
__device__ inline float block_sum(float value) {
    __shared__ float warp_sums[WARPS];
    for (int lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
    __syncthreads();
    float total = 0.0f;
    for (int w = 0; w < WARPS; w++) total += warp_sums[w];
    __syncthreads();  // the next sum must not overwrite what others still read
    return total;
}

// Address of (pixel, c) when the channels are split into part1 (C1) and part2 (C - C1).
template <class T>
__device__ inline T* place(T* part1, T* part2, int C1, int C, long long pixel, int c) {
    return c < C1 ? part1 + pixel * C1 + c : part2 + pixel * (C - C1) + (c - C1);
}

// grid (G N). y [N, P, C] = f((x - mean) rstd w + b); f: SiLU if with_silu, else the identity.
extern "C" __global__ void __launch_bounds__(THREADS)
group_norm(const float* x1, const float* x2, int C1, const float* weight, const float* bias,
           Stored* y, float* mean_out, float* rstd_out, int P, int C, int size, float eps,
           int with_silu) {
    int G = C / size, group = blockIdx.x % G, image = blockIdx.x / G;
    int count = P * size, first = group * size;
    long long start = (long long)image * P;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        sum += *place(x1, x2, C1, C, start + i / size, first + i % size);
    }
    float mean = block_sum(sum) / count;
    // Squared deviations from the mean: E[x^2] - E[x]^2 would cancel where |mean| >> std.
    float squares = 0.0f;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        float deviation = *place(x1, x2, C1, C, start + i / size, first + i % size) - mean;
        squares += deviation * deviation;
    }
    float rstd = 1.0f / sqrtf(block_sum(squares) / count + eps);
    if (threadIdx.x == 0) {
        mean_out[blockIdx.x] = mean;
        rstd_out[blockIdx.x] = rstd;
    }
    for (int i = threadIdx.x; i < count; i += THREADS) {
        int c = first + i % size;
        float x = *place(x1, x2, C1, C, start + i / size, c);
        float z = (x - mean) * rstd * weight[c] + bias[c];
        y[(start + i / size) * C + c] = stored(with_silu ? z / (1.0f + expf(-z)) : z);
    }
}

// Return dz = gy f'(z) for one element; n = (x - mean) rstd.
__device__ inline float slope(float gy, float n, float weight, float bias, int with_silu) {
    if (!with_silu) return gy;
    float z = n * weight + bias, s = 1.0f / (1.0f + expf(-z));
    return gy * s * (1.0f + z * (1.0f - s));
}

// grid (G N). With averages over the group:
//     gx = rstd (w dz - avg(w dz) - n avg(w dz n));  gweight = sum dz n;  gbias = sum dz
// partial1, partial2: gradients already accumulated for the parts of x, added to gx unless null.
// sums [2, N, C]: per-image sums of dz and dz n over pixels; the last block of each group sums them
// over images. counters [G]: zero on entry and on exit.
extern "C" __global__ void __launch_bounds__(THREADS)
group_norm_backward(const float* gy, const float* x1, const float* x2, int C1,
                    const float* weight, const float* bias, const float* mean, const float* rstd,
                    const float* partial1, const float* partial2, float* gx1, float* gx2,
                    float* gweight, float* gbias, float* sums, unsigned* counters, int P, int C,
                    int size, int with_silu) {
    __shared__ float sums_dz[THREADS], sums_dz_n[THREADS];
    int G = C / size, group = blockIdx.x % G, image = blockIdx.x / G, N = gridDim.x / G;
    int first = group * size;
    long long start = (long long)image * P;
    float m = mean[blockIdx.x], r = rstd[blockIdx.x];
    float average = 0.0f, average_n = 0.0f;
    // Up to THREADS channels per pass; each thread sums every `rows`-th pixel of one channel.
    // block_sum's barriers also keep the next pass from overwriting both arrays early.
    for (int begin = 0; begin < size; begin += THREADS) {
        int channels = min(size - begin, THREADS), rows = THREADS / channels;
        int row = threadIdx.x / channels, c = first + begin + threadIdx.x % channels;
        float sum = 0.0f, sum_n = 0.0f;
        for (int p = row; row < rows && p < P; p += rows) {
            float n = (*place(x1, x2, C1, C, start + p, c) - m) * r;
            float dz = slope(gy[(start + p) * C + c], n, weight[c], bias[c], with_silu);
            sum += dz;
            sum_n += dz * n;
        }
        sums_dz[threadIdx.x] = sum;
        sums_dz_n[threadIdx.x] = sum_n;
        __syncthreads();
        bool writes = threadIdx.x < channels;
        for (int other = 1; writes && other < rows; other++) {
            sum += sums_dz[other * channels + threadIdx.x];
            sum_n += sums_dz_n[other * channels + threadIdx.x];
        }
        if (writes) {
            sums[(long long)image * C + c] = sum;
            sums[(long long)(N + image) * C + c] = sum_n;
        }
        average += block_sum(writes ? weight[c] * sum : 0.0f);
        average_n += block_sum(writes ? weight[c] * sum_n : 0.0f);
    }
    int count = P * size;
    average /= count;
    average_n /= count;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        int c = first + i % size;
        long long pixel = start + i / size;
        float n = (*place(x1, x2, C1, C, pixel, c) - m) * r;
        float dz = slope(gy[pixel * C + c], n, weight[c], bias[c], with_silu);
        float gx = r * (weight[c] * dz - average - n * average_n);
        if (c < C1 ? partial1 : partial2) gx += *place(partial1, partial2, C1, C, pixel, c);
        *place(gx1, gx2, C1, C, pixel, c) = gx;
    }
    if (!last_block(counters + group, N)) return;
    for (int c = first + threadIdx.x; c < first + size; c += THREADS) {
        float sum = 0.0f, sum_n = 0.0f;
        for (int i = 0; i < N; i++) {
            sum += __ldcg(sums + (long long)i * C + c);
            sum_n += __ldcg(sums + (long long)(N + i) * C + c);
        }
        gbias[c] = sum;
        gweight[c] = sum_n;
    }
}

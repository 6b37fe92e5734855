// Group normalisation with or without SiLU, channels last: x [N, P, C], a group is `size` channels.
//
// Forward: one block for each group of each image reads it three times (mean, spread, result), of
// which only the first comes from far away. Sums go from thread to thread by shuffles within a
// warp, and from warp to warp by way of shared memory.

#define WARPS 8
#define THREADS (32 * WARPS)

// The sum over all threads of a block, the same in each of them.
__device__ inline float block_sum(float value) {
    __shared__ float of_warps[WARPS];
    for (int lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    float total = 0.0f;
    for (int w = 0; w < WARPS; w++) total += of_warps[w];
    __syncthreads();  // the next sum must not overwrite what others still read
    return total;
}

// grid (G, N). y = f((x - mean) rstd w + b); f is SiLU if with_silu, else nothing.
extern "C" __global__ void __launch_bounds__(THREADS)
group_norm(const float* x, const float* weight, const float* bias, float* y, float* mean_out,
           float* rstd_out, int P, int C, int size, float eps, int with_silu) {
    int group = blockIdx.x, image = blockIdx.y, count = P * size;
    long long start = (long long)image * P * C + group * size;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += x[start + i / size * C + i % size];
    float mean = block_sum(sum) / count;
    // The squares around the mean: E[x^2] - E[x]^2 would cancel where |mean| >> std.
    float squares = 0.0f;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        float apart = x[start + i / size * C + i % size] - mean;
        squares += apart * apart;
    }
    float rstd = 1.0f / sqrtf(block_sum(squares) / count + eps);
    if (threadIdx.x == 0) {
        mean_out[image * gridDim.x + group] = mean;
        rstd_out[image * gridDim.x + group] = rstd;
    }
    for (int i = threadIdx.x; i < count; i += THREADS) {
        int c = group * size + i % size;
        long long at = start + i / size * C + i % size;
        float z = (x[at] - mean) * rstd * weight[c] + bias[c];
        y[at] = with_silu ? z / (1.0f + expf(-z)) : z;
    }
}

// dz = gy f'(z): of one element, n = (x - mean) rstd.
__device__ inline float slope(float gy, float n, float weight, float bias, int with_silu) {
    if (!with_silu) return gy;
    float z = n * weight + bias, s = 1.0f / (1.0f + expf(-z));
    return gy * s * (1.0f + z * (1.0f - s));
}

// Backward, first half. grid (ceil(C / 32), N), block (32, 8): a lane is a channel.
// sums [2, N, C]: of dz, and of dz n, over the pixels of each image.
extern "C" __global__ void __launch_bounds__(THREADS)
group_norm_sums(const float* gy, const float* x, const float* weight, const float* bias,
                const float* mean, const float* rstd, float* sums, int P, int C, int size,
                int with_silu) {
    __shared__ float plain[WARPS][32];
    __shared__ float tilted[WARPS][32];
    int c = blockIdx.x * 32 + threadIdx.x, image = blockIdx.y;
    float sum = 0.0f, sum_n = 0.0f;
    if (c < C) {
        int group = image * (C / size) + c / size;
        for (int p = threadIdx.y; p < P; p += WARPS) {
            long long at = ((long long)image * P + p) * C + c;
            float n = (x[at] - mean[group]) * rstd[group];
            float dz = slope(gy[at], n, weight[c], bias[c], with_silu);
            sum += dz;
            sum_n += dz * n;
        }
    }
    plain[threadIdx.y][threadIdx.x] = sum;
    tilted[threadIdx.y][threadIdx.x] = sum_n;
    __syncthreads();
    if (threadIdx.y == 0 && c < C) {
        for (int w = 1; w < WARPS; w++) {
            sum += plain[w][threadIdx.x];
            sum_n += tilted[w][threadIdx.x];
        }
        sums[image * C + c] = sum;
        sums[(gridDim.y + image) * C + c] = sum_n;
    }
}

// Second half, grid (G, N): gx = rstd (w dz - avg(w dz) - n avg(w dz n)), averages over the group.
extern "C" __global__ void __launch_bounds__(THREADS)
group_norm_gradient(const float* gy, const float* x, const float* weight, const float* bias,
                    const float* mean, const float* rstd, const float* sums, float* gx, int P,
                    int C, int size, int with_silu) {
    int group = blockIdx.x, image = blockIdx.y, count = P * size;
    float m = mean[image * gridDim.x + group], r = rstd[image * gridDim.x + group];
    float average = 0.0f, average_n = 0.0f;
    for (int c = group * size; c < (group + 1) * size; c++) {
        average += weight[c] * sums[image * C + c] / count;
        average_n += weight[c] * sums[(gridDim.y + image) * C + c] / count;
    }
    long long start = (long long)image * P * C + group * size;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        int c = group * size + i % size;
        long long at = start + i / size * C + i % size;
        float n = (x[at] - m) * r;
        float dz = slope(gy[at], n, weight[c], bias[c], with_silu);
        gx[at] = r * (weight[c] * dz - average - n * average_n);
    }
}

// out [C] = the sum over the rows of [R, C]. Grid (ceil(C / 32)), block (32, 8).
extern "C" __global__ void __launch_bounds__(THREADS)
sum_rows(const float* rows, float* out, int R, int C) {
    __shared__ float parts[WARPS][32];
    int c = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (c < C) {
        for (int r = threadIdx.y; r < R; r += WARPS) sum += rows[(long long)r * C + c];
    }
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < C) {
        for (int w = 1; w < WARPS; w++) sum += parts[w][threadIdx.x];
        out[c] = sum;
    }
}

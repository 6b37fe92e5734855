__device__ float block_sum(float value) {
    __shared__ float sums[128];
    sums[threadIdx.x] = value;
    __syncthreads();
    for (int half = 64; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    float total = sums[0];
    __syncthreads();  // the next sum may overwrite it
    return total;
}

extern "C" __global__ void group_norm(const float* x, const float* weight, const float* bias,
                                      float* y, int P, int C, int G, float eps) {
    int S = C / G, g = blockIdx.x % G, count = P * S;
    long long start = (long long)(blockIdx.x / G) * P * C + g * S;
    float sum = 0.0f, squares = 0.0f;
    for (int i = threadIdx.x; i < count; i += 128) sum += x[start + i / S * C + i % S];
    float mean = block_sum(sum) / count;
    for (int i = threadIdx.x; i < count; i += 128) {
        float centred = x[start + i / S * C + i % S] - mean;
        squares += centred * centred;
    }
    float rstd = 1.0f / sqrtf(block_sum(squares) / count + eps);
    for (int i = threadIdx.x; i < count; i += 128) {
        long long at = start + i / S * C + i % S;
        int c = g * S + i % S;
        y[at] = (x[at] - mean) * rstd * weight[c] + bias[c];
    }
}

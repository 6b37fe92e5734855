extern "C" __global__ void block_sum(const float* x, float* y, int n) {
    __shared__ float sums[128];
    int t = threadIdx.x;
    float sum = 0.0f;
    for (int i = t; i < n; i += 128) sum += x[blockIdx.x * n + i];
    sums[t] = sum;
    __syncthreads();
    for (int half = 64; half > 0; half /= 2) {
        if (t < half) sums[t] += sums[t + half];
        __syncthreads();
    }
    if (t == 0) y[blockIdx.x] = sums[0];
}

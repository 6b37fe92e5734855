extern "C" __global__ void softmax(const float* x, float* y, int n) {
    x += (long long)blockIdx.x * n;
    y += (long long)blockIdx.x * n;
    float largest = x[0], sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += 32) largest = fmaxf(largest, x[i]);
    for (int bits = 16; bits; bits /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, bits));
    }
    for (int i = threadIdx.x; i < n; i += 32) sum += expf(x[i] - largest);
    for (int bits = 16; bits; bits /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bits);
    for (int i = threadIdx.x; i < n; i += 32) y[i] = expf(x[i] - largest) / sum;
}

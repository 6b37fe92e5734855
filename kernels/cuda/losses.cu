// The mean squared error of each image, and its gradient (kernels/reference/losses.py).

#include "each.cuh"

// errors[k] = 1/P sum of (x - target)^2 over the P elements of image k. Grid (N), block (256).
extern "C" __global__ void __launch_bounds__(256)
mean_squared_errors(const float* x, const float* target, float* errors, int P) {
    __shared__ double warp_sums[8];
    const long long first = (long long)blockIdx.x * P;
    double sum = 0.0;
    for (int i = threadIdx.x; i < P; i += 256) {
        float difference = x[first + i] - target[first + i];
        sum += (double)difference * difference;
    }
    for (int lanes = 16; lanes; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < 8; w++) sum += warp_sums[w];
        errors[blockIdx.x] = (float)(sum / P);
    }
}

// gx = 2/P gy[k] (x - target); n = N P
extern "C" __global__ void mean_squared_errors_backward(const float* gy, const float* x,
                                                        const float* target, float* gx, int P,
                                                        float factor, int n) {
    for (EACH(i, n)) gx[i] = gy[i / P] * factor * (x[i] - target[i]);
}

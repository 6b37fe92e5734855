// The mean squared error of each image, and its gradient (kernels/reference/losses.py).

#include "block_sum.cuh"
#include "each.cuh"

// errors[k] = 1/P sum of (x - target)^2 over the P elements of image k. Grid (N), block (256).
extern "C" __global__ void __launch_bounds__(256)
mean_squared_errors(const float* x, const float* target, float* errors, int P) {
    const long long first = (long long)blockIdx.x * P;
    double sum = 0.0;
    for (int i = threadIdx.x; i < P; i += 256) {
        float difference = x[first + i] - target[first + i];
        sum += (double)difference * difference;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) errors[blockIdx.x] = (float)(sum / P);
}

// gx = 2/P gy[k] (x - target); n = N P
extern "C" __global__ void mean_squared_errors_backward(const float* gy, const float* x,
                                                        const float* target, float* gx, int P,
                                                        float factor, int n) {
    for (EACH(i, n)) gx[i] = gy[i / P] * factor * (x[i] - target[i]);
}

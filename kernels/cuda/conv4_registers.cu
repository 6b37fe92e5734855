// Rung 4: each thread has 4 x 4 results in registers.
//
// Rung 3 reads two numbers of shared memory for each multiplication. Here a thread reads 4 + 4, as
// two vectors, for 16. While a tile is multiplied the next one is already on its way: fetched into
// registers before, written to the other half of shared memory after (double buffering), so that
// one barrier per tile is enough.
#include "convolution.cuh"
#include "product.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
conv2d(const float* x, const float* w, const float* bias, float* y, SIZES) {
    product(Forward{x, w, bias, y, GIVEN});
}

extern "C" __global__ void __launch_bounds__(THREADS)
conv2d_gradient_x(const float* gy, const float* w, float* gx, SIZES) {
    product(GradientX{gy, w, gx, GIVEN});
}

extern "C" __global__ void __launch_bounds__(THREADS)
conv2d_gradient_w(const float* gy, const float* x, float* gw, SIZES) {
    product(GradientW{gy, x, gw, GIVEN});
}

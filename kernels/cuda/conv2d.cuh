// The three kernels of a rung, from its product() and its THREADS.

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

// The two gradients of a rung, each from a kernel of its own. The including file defines product()
// and THREADS.
#include "bounds.cuh"

extern "C" __global__ void __launch_bounds__(BOUNDS_X)
conv2d_gradient_x(const float* gy, const float* w, const float* partial1, const float* partial2,
                  const float* bias, float* gx1, float* gx2, int C1, SIZES) {
    product(GradientX{gy, w, partial1, partial2, gx1, gx2, C1, GIVEN, bias});
}

extern "C" __global__ void __launch_bounds__(BOUNDS)
conv2d_gradient_w(const float* gy, const Stored* x1, const Stored* x2, int C1, float* gw,
                  SIZES) {
    product(GradientW{gy, {x1, x2, C1}, gw, GIVEN});
}

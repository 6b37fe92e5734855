// The three kernels of a rung. The including file defines product() and THREADS; if it includes
// sliced.cuh, the forward's depth may be cut into slices.
#ifndef BOUNDS
#define BOUNDS THREADS  // of __launch_bounds__
#endif
#ifndef BOUNDS_X
#define BOUNDS_X BOUNDS  // of the kernels that compute gx
#endif

#ifdef SLICED
#define SLICES , float *parts, unsigned *counters
#define PRODUCT(p) sliced_product(p, parts, counters)
#else
#define SLICES
#define PRODUCT(p) product(p)
#endif

extern "C" __global__ void __launch_bounds__(BOUNDS)
conv2d(const Stored* x1, const Stored* x2, int C1, const float* w, const float* bias,
       const float* shift, const float* extra, float* y, SIZES SLICES) {
    Forward p = {{x1, x2, C1}, w, bias, shift, extra, y, GIVEN};
    PRODUCT(p);
}

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

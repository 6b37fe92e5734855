// The forward of a rung. The including file defines product() and THREADS; if it includes sliced.cuh,
// the depth may be cut into slices.
#include "bounds.cuh"

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

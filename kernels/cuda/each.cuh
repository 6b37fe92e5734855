// for (EACH(i, n)): a thread's elements are one grid apart, so any grid works for any n.
#define EACH(i, n)                                                              \
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (n);    \
    i += (long long)gridDim.x * blockDim.x

// One step of a sampler for one element: pred_x0, and x_prev without noise (sampler_step in
// kernels/reference/noise.py).
struct Step {
    float px, po, k0, kx, ko;
    int clip;
    __device__ float pred_x0(float x_t, float output) const {
        float x0 = px * x_t + po * output;
        if (clip) x0 = x0 > 1.0f ? 1.0f : x0 < -1.0f ? -1.0f : x0;  // nan stays nan
        return x0;
    }
    __device__ float x_prev(float x0, float x_t, float output) const {
        return k0 * x0 + kx * x_t + ko * output;
    }
};

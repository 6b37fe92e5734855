// Elementwise operations: each is one pass over memory, which takes nearly all of its time.
//
// A thread's elements are one grid apart, so the threads of a warp always read neighbouring ones,
// and any grid works for any size. Formulas: kernels/reference/.

#include "block_sum.cuh"
#include "each.cuh"
#include "last_block.cuh"

// y = x / (1 + e^-x). For very negative x the denominator is infinite and y = -0.
extern "C" __global__ void silu(const float* x, float* y, int n) {
    for (EACH(i, n)) y[i] = x[i] / (1.0f + expf(-x[i]));
}

// gx = gy s (1 + x (1 - s)) with s = 1 / (1 + e^-x)
extern "C" __global__ void silu_backward(const float* gy, const float* x, float* gx, int n) {
    for (EACH(i, n)) {
        float s = 1.0f / (1.0f + expf(-x[i]));
        gx[i] = gy[i] * s * (1.0f + x[i] * (1.0f - s));
    }
}

// total = a + b; total may be a or b
extern "C" __global__ void add(const float* a, const float* b, float* total, int n) {
    for (EACH(i, n)) total[i] = a[i] + b[i];
}

const int PAIRS = 128;  // of a launch, in pointwise.py, too: all arguments have at most 4 KB

struct Pair {
    float* total;
    const float* x;
    long long n;
};

struct Pairs {
    Pair pair[PAIRS];
};

// total += x for the n elements of many pairs of arrays. grid (any, count)
extern "C" __global__ void add_all(Pairs pairs) {
    const Pair& pair = pairs.pair[blockIdx.y];
    for (EACH(i, pair.n)) pair.total[i] += pair.x[i];
}

// features [N, C]: sines and cosines of t f_i, f_i = 10000^(-i / divisor) for i < C / 2.
extern "C" __global__ void timestep_features(const long long* t, float* features, int C,
                                             float divisor, int cosines_first, int n) {
    for (EACH(at, n)) {
        int half = C / 2, c = at % C, i = c % half;
        // In double: near 1000 a float32 has only four decimals. sincospif takes half turns, here
        // reduced to one turn.
        double half_turns = t[at / C] * exp(-9.210340371976184 * i / divisor) / 3.141592653589793;
        float sin, cos;
        sincospif((float)(half_turns - 2 * floor(half_turns / 2)), &sin, &cos);
        features[at] = c >= 2 * half ? 0.0f : (c < half) == (cosines_first != 0) ? cos : sin;
    }
}

// y [N, 2H, 2W, C] from x [N, H, W, C]: n counts the elements of y.
extern "C" __global__ void upsample_nearest(const float* x, float* y, int H, int W, int C, int n) {
    for (EACH(i, n)) {
        int c = i % C, w = i / C % (2 * W);
        long long row = i / C / (2 * W);  // counted over all images: image * 2H + h
        long long image = row / (2 * H);
        int h = row % (2 * H);
        y[i] = x[((image * H + h / 2) * W + w / 2) * C + c];
    }
}

// gx [N, H, W, C]: sums of gy over the four copies of each pixel; n counts the elements of gx.
extern "C" __global__ void upsample_nearest_backward(const float* gy, float* gx, int W, int C,
                                                     int n) {
    for (EACH(i, n)) {
        int c = i % C, w = i / C % W;
        long long row = i / C / W;  // 2 * row: its first row in gy, where every image has 2H rows
        const float* at = gy + ((2 * row) * 2 * W + 2 * w) * C + c;
        gx[i] = at[0] + at[C] + at[2 * W * C] + at[2 * W * C + C];
    }
}

// x_t = a x0 + b noise; a and b have one number for each image of P elements.
extern "C" __global__ void q_sample(const float* x0, const float* noise, const float* a,
                                    const float* b, float* x_t, int P, int n) {
    for (EACH(i, n)) x_t[i] = a[i / P] * x0[i] + b[i / P] * noise[i];
}

// One step of Adam with decoupled decay, and of the moving average, in one pass over the weights.
// average may be null. What changes from step to step is read at an address unless that is null, so
// that a CUDA graph can contain it. If grad_scale is not finite, nothing is changed.
extern "C" __global__ void adam(float* param, const float* grad, float* m, float* v,
                                float* average, const float* grad_scale_at, float grad_scale,
                                const double* step_at, double step, const double* lr_at,
                                double lr, const double* ema_decay_at, double ema_decay,
                                double beta1, double beta2, double weight_decay, float eps,
                                int n) {
    if (grad_scale_at) grad_scale = *grad_scale_at;
    if (grad_scale - grad_scale != 0.0f) return;
    // In double precision, once for each block: 1 - beta2^step has few correct bits in float.
    __shared__ float rate, root, decay, rest;
    if (threadIdx.x == 0) {
        if (step_at) step = *step_at;
        if (lr_at) lr = *lr_at;
        if (ema_decay_at) ema_decay = *ema_decay_at;
        rate = (float)(lr / (1.0 - pow(beta1, step)));
        root = (float)(1.0 / sqrt(1.0 - pow(beta2, step)));
        decay = (float)(1.0 - lr * weight_decay);
        rest = (float)(1.0 - ema_decay);
    }
    __syncthreads();
    const float b1 = (float)beta1, b2 = (float)beta2;
    for (EACH(i, n)) {
        float g = grad[i] * grad_scale;
        float m_new = b1 * m[i] + (1.0f - b1) * g;
        float v_new = b2 * v[i] + (1.0f - b2) * (g * g);
        m[i] = m_new;
        v[i] = v_new;
        float p = decay * param[i] - rate * m_new / (sqrtf(v_new) * root + eps);
        param[i] = p;
        if (average) average[i] += rest * (p - average[i]);
    }
}

// scale = the factor that reduces a gradient to max_norm, or nan (kernels/reference/optimizer.py).
extern "C" __global__ void clip_scale(const double* squared_norm, float max_norm, float* scale) {
    double norm = sqrt(*squared_norm);
    *scale = (float)(max_norm / (norm > max_norm ? norm : max_norm) + (norm - norm));
}

// average = decay average + (1 - decay) param with rest = 1 - decay
extern "C" __global__ void ema(float* average, const float* param, float rest, int n) {
    for (EACH(i, n)) average[i] += rest * (param[i] - average[i]);
}

// One step of a sampler (sampler_step in kernels/reference/noise.py); noise: null if sigma = 0.
extern "C" __global__ void sampler_step(const float* x_t, const float* output, const float* noise,
                                        float* x_prev, float* pred_x0, float px, float po,
                                        float k0, float kx, float ko, float sigma, int clip,
                                        int n) {
    Step step = {px, po, k0, kx, ko, clip};
    for (EACH(i, n)) {
        float x0 = pred_x0[i] = step.pred_x0(x_t[i], output[i]);
        float value = step.x_prev(x0, x_t[i], output[i]);
        x_prev[i] = noise ? value + sigma * noise[i] : value;
    }
}

// total = the sum of x^2 in double precision. parts [gridDim.x]: each block's sum, which the last
// block adds up, always in the same order. counter: zero on entry and on exit. block (256)
extern "C" __global__ void __launch_bounds__(256)
squared_norm(const float* x, double* parts, double* total, unsigned* counter, int n) {
    double sum = 0.0;
    for (EACH(i, n)) sum += (double)x[i] * x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
    if (!last_block(counter, gridDim.x)) return;
    sum = 0.0;
    for (int i = threadIdx.x; i < gridDim.x; i += 256) sum += __ldcg(parts + i);
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}

// Philox4x32-10, and the operations that use its words directly (kernels/reference/noise.py).
//
// One thread computes one block of four words, whose counter is (block, step) and whose key is
// (seed, purpose). There is no state, so every element of every stream can be computed alone,
// in any order. Results begin at a block's first word; `n` need not be a multiple of four.

#include "each.cuh"
#include "vector.cuh"

// A CUDA graph repeats its arguments, but each replay of a training step draws other numbers: the
// step is read at step_at, unless that is null.
struct Stream {
    const unsigned long long* step_at;
    unsigned long long step;
    unsigned seed, purpose;
};

__device__ inline uint4 philox(unsigned long long block, Stream stream) {
    unsigned long long step = stream.step_at ? *stream.step_at : stream.step;
    unsigned key0 = stream.seed, key1 = stream.purpose;
    uint4 c = make_uint4((unsigned)block, (unsigned)(block >> 32), (unsigned)step,
                         (unsigned)(step >> 32));
    for (int round = 0; round < 10; round++) {
        unsigned low0 = 0xD2511F53u * c.x, high0 = __umulhi(0xD2511F53u, c.x);
        unsigned low1 = 0xCD9E8D57u * c.z, high1 = __umulhi(0xCD9E8D57u, c.z);
        c = make_uint4(high1 ^ c.y ^ key0, low1, high0 ^ c.w ^ key1, low0);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return c;
}

// Box-Muller: r = sqrt(-2 ln u1), angle 2 pi u2; u1 = (w1 >> 8) 2^-24 + 2^-24 and
// u2 = (w2 >> 8) 2^-24.
// sincospif takes its argument in units of pi and needs no slow reduction to one turn.
__device__ inline float2 normals(unsigned w1, unsigned w2) {
    float u1 = ((w1 >> 8) + 1) * 5.9604644775390625e-8f;
    float r = sqrtf(-2.0f * logf(u1)), sin, cos;
    sincospif((w2 >> 8) * 1.1920928955078125e-7f, &sin, &cos);
    return make_float2(r * cos, r * sin);
}

typedef Vector<float, 4> Four;

__device__ inline Four four_normals(uint4 words) {
    float2 a = normals(words.x, words.y), b = normals(words.z, words.w);
    return {a.x, a.y, b.x, b.y};
}

// Elements first .. first + 3 of x [n], of those that it has; together, so that a warp's fill whole
// sectors, if all are there and the address allows it.
__device__ inline bool together(const float* x, long long first, int n) {
    return first >= 0 && first + 4 <= n && aligned(x + first);
}
__device__ inline Four load(const float* x, long long first, int n) {
    if (together(x, first, n)) return *(const Four*)(x + first);
    Four four = {};
    for (int j = 0; j < 4; j++) {
        if (first + j >= 0 && first + j < n) four.at[j] = x[first + j];
    }
    return four;
}
__device__ inline void store(float* x, long long first, int n, const Four& four) {
    if (together(x, first, n)) {
        *(Four*)(x + first) = four;
        return;
    }
    for (int j = 0; j < 4; j++) {
        if (first + j >= 0 && first + j < n) x[first + j] = four.at[j];
    }
}

// Words of blocks first, first + 1, ...: out [4 blocks]
extern "C" __global__ void random_bits(unsigned* out, unsigned long long first, Stream stream,
                                       int blocks) {
    for (EACH(i, blocks)) ((uint4*)out)[i] = philox(first + i, stream);
}

// Standard normals of blocks first, first + 1, ...: out [4 blocks]
extern "C" __global__ void random_normal(float* out, unsigned long long first, Stream stream,
                                         int blocks) {
    for (EACH(i, blocks)) ((Four*)out)[i] = four_normals(philox(first + i, stream));
}

// x_t = a x0 + b z, and noise = z, drawn here: elements first, first + 1, ... of the stream. Image k
// is elements k P .. k P + P - 1.
extern "C" __global__ void q_sample_normal(const float* x0, const float* a, const float* b,
                                           float* x_t, float* noise, unsigned long long first,
                                           Stream stream, int P, int n) {
    int lead = first % 4;  // elements of the first block that come before `first`
    for (EACH(block, (lead + n + 3) / 4)) {
        long long i = 4 * block - lead;
        Four z = four_normals(philox(first / 4 + block, stream)), x = load(x0, i, n);
        for (int j = 0; j < 4; j++) {
            long long image = max(0LL, min(i + j, n - 1LL)) / P;
            x.at[j] = a[image] * x.at[j] + b[image] * z.at[j];
        }
        store(noise, i, n, z);
        store(x_t, i, n, x);
    }
}

// y = factor x if the upper 24 bits of the element's word are at least `limit`, else 0. The words
// are first, first + 1, ... of the stream.
extern "C" __global__ void dropout(const float* x, float* y, unsigned limit, float factor,
                                   unsigned long long first, Stream stream, int n) {
    int lead = first % 4;
    for (EACH(block, (lead + n + 3) / 4)) {
        uint4 w = philox(first / 4 + block, stream);
        unsigned words[4] = {w.x, w.y, w.z, w.w};
        long long i = 4 * block - lead;
        Four four = load(x, i, n);
        for (int j = 0; j < 4; j++) {
            four.at[j] = words[j] >> 8 >= limit ? factor * four.at[j] : 0.0f;
        }
        store(y, i, n, four);
    }
}

// sampler_step (pointwise.cu) with its noise drawn here: elements first, first + 1, ... of the
// stream.
extern "C" __global__ void sampler_step_normal(const float* x_t, const float* output,
                                               float* x_prev, float* pred_x0, float px, float po,
                                               float k0, float kx, float ko, float sigma, int clip,
                                               unsigned long long first, Stream stream, int n) {
    Step step = {px, po, k0, kx, ko, clip};
    int lead = first % 4;  // elements of the first block that come before `first`
    for (EACH(block, (lead + n + 3) / 4)) {
        long long i = 4 * block - lead;
        Four z = {}, x = load(x_t, i, n), its_output = load(output, i, n), x0;
        if (sigma != 0.0f) z = four_normals(philox(first / 4 + block, stream));
        for (int j = 0; j < 4; j++) {
            x0.at[j] = step.pred_x0(x.at[j], its_output.at[j]);
            x.at[j] = step.x_prev(x0.at[j], x.at[j], its_output.at[j]) + sigma * z.at[j];
        }
        store(pred_x0, i, n, x0);
        store(x_prev, i, n, x);
    }
}

// Philox4x32-10, and the operations that use its words directly (kernels/reference/noise.py).
//
// One thread computes one block of four words, whose counter is (block, step) and whose key is
// (seed, purpose). There is no state, so every element of every stream can be computed alone,
// in any order. Results begin at a block's first word; `n` need not be a multiple of four.

#include "each.cuh"

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

__device__ inline float4 four_normals(uint4 words) {
    float2 a = normals(words.x, words.y), b = normals(words.z, words.w);
    return make_float4(a.x, a.y, b.x, b.y);
}

// Words of blocks first, first + 1, ...: out [4 blocks]
extern "C" __global__ void random_bits(unsigned* out, unsigned long long first, Stream stream,
                                       int blocks) {
    for (EACH(i, blocks)) ((uint4*)out)[i] = philox(first + i, stream);
}

// Standard normals of blocks first, first + 1, ...: out [4 blocks]
extern "C" __global__ void random_normal(float* out, unsigned long long first, Stream stream,
                                         int blocks) {
    for (EACH(i, blocks)) ((float4*)out)[i] = four_normals(philox(first + i, stream));
}

// x_t = a x0 + b z, and noise = z, drawn here: elements first, first + 1, ... of the stream. Image k
// is elements k P .. k P + P - 1.
extern "C" __global__ void q_sample_normal(const float* x0, const float* a, const float* b,
                                           float* x_t, float* noise, unsigned long long first,
                                           Stream stream, int P, int n) {
    int lead = first % 4;  // elements of the first block that come before `first`
    for (EACH(block, (lead + n + 3) / 4)) {
        float4 z4 = four_normals(philox(first / 4 + block, stream));
        float z[4] = {z4.x, z4.y, z4.z, z4.w};
        for (int j = 0; j < 4; j++) {
            long long i = 4 * block + j - lead;
            if (i < 0 || i >= n) continue;
            noise[i] = z[j];
            x_t[i] = a[i / P] * x0[i] + b[i / P] * z[j];
        }
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
        for (int j = 0; j < 4; j++) {
            long long i = 4 * block + j - lead;
            if (i < 0 || i >= n) continue;
            y[i] = words[j] >> 8 >= limit ? factor * x[i] : 0.0f;
        }
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
        float z[4] = {};
        if (sigma != 0.0f) {
            uint4 words = philox(first / 4 + block, stream);
            float4 z4 = four_normals(words);
            z[0] = z4.x, z[1] = z4.y, z[2] = z4.z, z[3] = z4.w;
        }
        for (int j = 0; j < 4; j++) {
            long long i = 4 * block + j - lead;
            if (i < 0 || i >= n) continue;
            float x0 = pred_x0[i] = step.pred_x0(x_t[i], output[i]);
            x_prev[i] = step.x_prev(x0, x_t[i], output[i]) + sigma * z[j];
        }
    }
}

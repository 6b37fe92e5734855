// Group normalisation with or without SiLU. x [N, P, C]: P pixels, `size` channels per group.
//
// A block has one group of one image, or as many as fill the sectors of 32 bytes in which memory is
// read and written: a pixel of one group may be half of one. A thread keeps its numbers in
// registers, so that x and gy are read once, unless an image is large. Sums pass between the
// threads of a warp by shuffles, and between warps through shared memory. The grid has one
// dimension, because the others end at 65,535.
//
// x may be the concatenation of two parts: the first has C1 channels.
//
// With -DSTORED y is stored in 16 bits (narrow.cuh): the tensor-core convolution that reads it
// would round it anyway. All sums and the statistics are float32.
//
// LANES numbers are read together. -DLANES=1 is for groups or parts of x that are not whole vectors
// of four, or addresses that are not multiples of 16 bytes.
#ifdef STORED
#include "narrow.cuh"
typedef Narrow Stored;
__device__ inline Stored stored(float x) { return narrow(x); }
#else
typedef float Stored;
__device__ inline Stored stored(float x) { return x; }
#endif
#ifndef LANES
#define LANES 4
#endif

#define KEPT 7            // vectors: 8 of both x and gy would spill registers
#define MOST_THREADS 512  // of a block; norm.py chooses fewer if they keep all numbers
#include "block_sum.cuh"
#include "last_block.cuh"

template <class T> struct alignas(LANES * sizeof(T)) Vector {
    T of[LANES];
};
typedef Vector<float> Numbers;

// An array [pixels, C] that is split into two parts, of C1 and of C - C1 channels.
struct Parts {
    const float *part1, *part2;
    int C1, C;

    __device__ Numbers* at(int pixel, int c) const {
        return (Numbers*)(c < C1 ? part1 + (pixel * C1 + c)
                                 : part2 + (pixel * (C - C1) + (c - C1)));
    }
};

// What a thread reads: the vectors at channels c, c + step, ... of pixels row, row + rows, ... Most
// groups are so narrow that c is enough. groups: of a block. blocks: of an image.
struct Share {
    int block, image, group, start, c, step, end, row, rows, P, width;
    bool keeps;  // if its only channels are those at c

    __device__ Share(int P, int size, int groups, int blocks) : P(P) {
        block = blockIdx.x % blocks, image = blockIdx.x / blocks, start = image * P;
        group = block * groups + threadIdx.x % groups;
        int threads = blockDim.x / groups, place = threadIdx.x / groups;
        int columns = min(size / LANES, threads);
        c = group * size + place % columns * LANES, step = columns * LANES;
        end = (group + 1) * size, keeps = step >= size;
        row = place / columns, rows = threads / columns, width = columns * groups;
        if (row >= rows) row = 1 << 30;  // these threads have no pixel
    }
    // Call f(i, pixel) for all pixels; i: where the i-th vector is kept, KEPT if it is not.
    template <class F> __device__ void each_pixel(F f) const {
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            if (keeps && row + i * rows < P) f(i, start + row + i * rows);
        }
        for (int p = row + keeps * KEPT * rows; p < P; p += rows) f(KEPT, start + p);
    }
    // Return the sums over all rows, in the threads of row 0. All threads of a block call it, but
    // of a block with only one row some may have more channels than others.
    __device__ Numbers sum_rows(Numbers sums) const {
        __shared__ Numbers shared[MOST_THREADS];
        if (rows == 1) return sums;
        __syncthreads();  // the previous sums are read
        shared[threadIdx.x] = sums;
        for (int height = rows, half; height > 1; height = half) {
            half = (height + 1) / 2;
            __syncthreads();
            if (row + half >= height) continue;
            Numbers other = shared[threadIdx.x + half * width];
            for (int j = 0; j < LANES; j++) sums.of[j] += other.of[j];
            shared[threadIdx.x] = sums;
        }
        return sums;
    }
};

// grid (blocks * N). y [N, P, C] = f((x - mean) rstd w + b); f: SiLU if with_silu, else identity.
extern "C" __global__ void __launch_bounds__(MOST_THREADS, 1)
group_norm(const float* x1, const float* x2, int C1, const float* weight, const float* bias,
           Stored* y, float* mean_out, float* rstd_out, int P, int C, int size, int groups,
           int blocks, float eps, int with_silu) {
    Share mine(P, size, groups, blocks);
    Parts x = {x1, x2, C1, C};
    int count = P * size;
    Numbers kept[KEPT + 1];
    float sum = 0.0f;
    for (int c = mine.c; c < mine.end; c += mine.step) {
        mine.each_pixel([&](int i, int pixel) {
            kept[i] = *x.at(pixel, c);
            for (int j = 0; j < LANES; j++) sum += kept[i].of[j];
        });
    }
    float mean = block_sum(sum, groups) / count;
    // Squared deviations from the mean: E[x^2] - E[x]^2 would cancel where |mean| >> std.
    float squares = 0.0f;
    for (int c = mine.c; c < mine.end; c += mine.step) {
        mine.each_pixel([&](int i, int pixel) {
            Numbers number = i < KEPT ? kept[i] : *x.at(pixel, c);
            for (int j = 0; j < LANES; j++) {
                squares += (number.of[j] - mean) * (number.of[j] - mean);
            }
        });
    }
    float rstd = 1.0f / sqrtf(block_sum(squares, groups) / count + eps);
    if (threadIdx.x < groups) {
        int at = mine.image * (C / size) + mine.group;
        mean_out[at] = mean;
        rstd_out[at] = rstd;
    }
    for (int c = mine.c; c < mine.end; c += mine.step) {
        Numbers w = *(const Numbers*)(weight + c), b = *(const Numbers*)(bias + c);
        mine.each_pixel([&](int i, int pixel) {
            Numbers number = i < KEPT ? kept[i] : *x.at(pixel, c);
            Vector<Stored> result;
            for (int j = 0; j < LANES; j++) {
                float z = (number.of[j] - mean) * rstd * w.of[j] + b.of[j];
                result.of[j] = stored(with_silu ? z / (1.0f + expf(-z)) : z);
            }
            *(Vector<Stored>*)(y + (pixel * C + c)) = result;
        });
    }
}

// Return dz = gy f'(z) for one element; n = (x - mean) rstd.
__device__ inline float slope(float gy, float n, float weight, float bias, int with_silu) {
    if (!with_silu) return gy;
    float z = n * weight + bias, s = 1.0f / (1.0f + expf(-z));
    return gy * s * (1.0f + z * (1.0f - s));
}

// grid (blocks * N). With averages over the group:
//     gx = rstd (w dz - avg(w dz) - n avg(w dz n));  gweight = sum dz n;  gbias = sum dz
// partial1, partial2: gradients already accumulated for the parts of x, added to gx unless null.
// sums [2, N, C]: per-image sums of dz and dz n over pixels. The last block to finish for the same
// groups sums them over images. counters [blocks]: zero on entry and on exit.
extern "C" __global__ void __launch_bounds__(MOST_THREADS, 1)
group_norm_backward(const float* gy, const float* x1, const float* x2, int C1,
                    const float* weight, const float* bias, const float* mean, const float* rstd,
                    const float* partial1, const float* partial2, float* gx1, float* gx2,
                    float* gweight, float* gbias, float* sums, unsigned* counters, int P, int C,
                    int size, int groups, int blocks, int with_silu) {
    Share mine(P, size, groups, blocks);
    Parts x = {x1, x2, C1, C}, partial = {partial1, partial2, C1, C};
    Parts gx = {gx1, gx2, C1, C};
    int N = gridDim.x / blocks, count = P * size, at = mine.image * (C / size) + mine.group;
    float m = mean[at], r = rstd[at], average = 0.0f, average_n = 0.0f;
    Numbers kept_dz[KEPT + 1], kept_n[KEPT + 1];
    auto compute = [&](int i, int pixel, int c, const Numbers& w) {
        Numbers gradient = *(const Numbers*)(gy + (pixel * C + c)), number = *x.at(pixel, c);
        Numbers b = *(const Numbers*)(bias + c);
        for (int j = 0; j < LANES; j++) {
            kept_n[i].of[j] = (number.of[j] - m) * r;
            kept_dz[i].of[j] =
                slope(gradient.of[j], kept_n[i].of[j], w.of[j], b.of[j], with_silu);
        }
    };
    for (int c = mine.c; c < mine.end; c += mine.step) {
        Numbers w = *(const Numbers*)(weight + c), sum = {}, sum_n = {};
        mine.each_pixel([&](int i, int pixel) {
            compute(i, pixel, c, w);
            for (int j = 0; j < LANES; j++) {
                sum.of[j] += kept_dz[i].of[j];
                sum_n.of[j] += kept_dz[i].of[j] * kept_n[i].of[j];
            }
        });
        sum = mine.sum_rows(sum), sum_n = mine.sum_rows(sum_n);
        if (mine.row > 0) continue;
        *(Numbers*)(sums + (mine.image * C + c)) = sum;
        *(Numbers*)(sums + ((N + mine.image) * C + c)) = sum_n;
        for (int j = 0; j < LANES; j++) {
            average += w.of[j] * sum.of[j];
            average_n += w.of[j] * sum_n.of[j];
        }
    }
    average = block_sum(average, groups) / count;
    average_n = block_sum(average_n, groups) / count;
    for (int c = mine.c; c < mine.end; c += mine.step) {
        Numbers w = *(const Numbers*)(weight + c);
        bool adds = c < C1 ? partial1 : partial2;
        mine.each_pixel([&](int i, int pixel) {
            if (i == KEPT) compute(i, pixel, c, w);
            Numbers result = {}, dz = kept_dz[i], n = kept_n[i];
            if (adds) result = *partial.at(pixel, c);
            for (int j = 0; j < LANES; j++) {
                result.of[j] += r * (w.of[j] * dz.of[j] - average - n.of[j] * average_n);
            }
            *gx.at(pixel, c) = result;
        });
    }
    if (!last_block(counters + mine.block, N)) return;
    for (int c = mine.c; c < mine.end; c += mine.step) {
        Numbers sum = {}, sum_n = {};
        for (int i = mine.row; i < N; i += mine.rows) {
            for (int j = 0; j < LANES; j++) {
                sum.of[j] += __ldcg(sums + (i * C + c + j));
                sum_n.of[j] += __ldcg(sums + ((N + i) * C + c + j));
            }
        }
        sum = mine.sum_rows(sum), sum_n = mine.sum_rows(sum_n);
        if (mine.row > 0) continue;
        *(Numbers*)(gbias + c) = sum;
        *(Numbers*)(gweight + c) = sum_n;
    }
}

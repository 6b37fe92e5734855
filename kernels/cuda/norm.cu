// Group normalisation with or without SiLU. x [N, P, C]: P pixels, `size` channels per group.
//
// A block has one group of one image, or as many as fill the sectors of 32 bytes in which memory is
// read and written, of y in 16 bits, too: a pixel of one group may be a quarter of one. A thread
// keeps its numbers in registers, so that they are read once, unless an image is large. A
// multiprocessor has room for several blocks: some wait for memory while others compute. Sums pass
// between the threads of a warp by shuffles, and between warps through shared memory. The grid has
// one dimension, because the others end at 65,535.
//
// x may be the concatenation of two parts: the first has C1 channels.
//
// With -DSTORED y is stored in 16 bits (narrow.cuh): the tensor-core convolution that reads it
// would round it anyway. All sums and the statistics are float32.
//
// LANES numbers are read together. -DLANES=1 is for groups or parts of x that are not whole vectors
// of four, or addresses that are not multiples of 16 bytes. -DWIDE is for groups of more channels
// than the threads of a block read together; it keeps nothing in registers.
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

#ifdef WIDE
#define KEPT 0
#else
#define KEPT 7  // vectors in a thread's registers, in norm.py, too
#endif
#define MOST_THREADS 448  // of a block, in norm.py, too
#define MOST_THREADS_BACKWARD 320
#include "block_sum.cuh"
#include "last_block.cuh"

template <class T> struct alignas(LANES * sizeof(T)) Vector {
    T of[LANES];
};
typedef Vector<float> Numbers;

// The vectors at one channel of an image's pixels.
template <class T> struct Column {
    T* first;
    int stride;

    __device__ Vector<T>& operator[](int pixel) const {
        // The compiler does not see it, and would use slower instructions for any memory.
        __builtin_assume(__isGlobal(first));
        return *(Vector<T>*)(first + pixel * stride);
    }
};

// An array [pixels, C] that is split into two parts, of C1 and of C - C1 channels.
struct Parts {
    const float *part1, *part2;
    int C1, C, start;  // start: the first pixel of an image

    __device__ Column<float> at(int c) const {
        if (c < C1) return {(float*)part1 + (start * C1 + c), C1};
        return {(float*)part2 + (start * (C - C1) + (c - C1)), C - C1};
    }
};

// What a thread reads: the vectors at channel c, and with -DWIDE at c + step, ..., of pixels row,
// row + rows, ... groups: of a block. blocks: of an image.
struct Share {
    int block, image, group, start, c, step, end, row, rows, P, width;

    __device__ Share(int P, int size, int groups, int blocks) : P(P) {
        block = blockIdx.x % blocks, image = blockIdx.x / blocks, start = image * P;
        group = block * groups + threadIdx.x % groups;
        int threads = blockDim.x / groups, place = threadIdx.x / groups;
        int columns = min(size / LANES, threads);
        c = group * size + place % columns * LANES, step = columns * LANES;
        end = (group + 1) * size;
        row = place / columns, rows = threads / columns, width = columns * groups;
        if (row >= rows) row = 1 << 30;  // these threads have no pixel
    }
    template <class F> __device__ void each_channel(F f) const {
#ifdef WIDE
        for (int i = c; i < end; i += step) f(i);
#else
        f(c);
#endif
    }
    // Call f(i, pixel) for all pixels; i: where the i-th vector is kept, KEPT if it is not.
    template <class F> __device__ void each_pixel(F f) const {
        each_kept(f);
        each_other([&](int pixel) { f(KEPT, pixel); });
    }
    template <class F> __device__ void each_kept(F f) const {
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            if (row + i * rows < P) f(i, row + i * rows);
        }
    }
    template <class F> __device__ void each_other(F f) const {
        for (int p = row + KEPT * rows; p < P; p += rows) f(p);
    }
    // Call f(i, pixel, inside) for all kept vectors. Without a branch the compiler can issue many
    // reads before the first number arrives. Where there is none, f gets the last, not inside.
    template <class F> __device__ void each_kept_or_last(F f) const {
#pragma unroll
        for (int i = 0; i < KEPT; i++) f(i, min(row + i * rows, P - 1), row + i * rows < P);
    }
    // Return the sums over all rows, in the threads of row 0. All threads of a block call it, but
    // of a block with only one row some may have more channels than others.
    __device__ Numbers sum_rows(Numbers sums) const {
        __shared__ Numbers shared[MOST_THREADS_BACKWARD];
        if (rows == 1) return sums;
        __syncthreads();  // the previous sums are read
        shared[threadIdx.x] = sums;
        for (int height = rows, part; height > 1; height = part) {
            part = (height + 7) / 8;  // eight rows become one: fewer barriers than in pairs
            __syncthreads();
            if (row >= part) continue;
            for (int i = row + part; i < height; i += part) {
                Numbers other = shared[threadIdx.x + (i - row) * width];
                for (int j = 0; j < LANES; j++) sums.of[j] += other.of[j];
            }
            shared[threadIdx.x] = sums;
        }
        return sums;
    }
};

// Return 1 / (1 + e^-z). The relative error grows with -z, to 1e-5; the result is 0 below -87.
__device__ inline float sigmoid(float z) { return __fdividef(1.0f, 1.0f + __expf(-z)); }

// grid (blocks * N). y [N, P, C] = f((x - mean) rstd w + b); f: SiLU if with_silu, else identity.
extern "C" __global__ void __launch_bounds__(MOST_THREADS, 2)
group_norm(const float* x1, const float* x2, int C1, const float* weight, const float* bias,
           Stored* y, float* mean_out, float* rstd_out, int P, int C, int size, int groups,
           int blocks, float eps, int with_silu) {
    Share mine(P, size, groups, blocks);
    Parts x = {x1, x2, C1, C, mine.start};
    int count = P * size;
    Numbers kept[KEPT + 1];
    float sum = 0.0f;
    mine.each_channel([&](int c) {
        Column<float> column = x.at(c);
        mine.each_pixel([&](int i, int pixel) {
            kept[i] = column[pixel];
            for (int j = 0; j < LANES; j++) sum += kept[i].of[j];
        });
    });
    float mean = block_sum(sum, groups) / count;
    // Squared deviations from the mean: E[x^2] - E[x]^2 would cancel where |mean| >> std.
    float squares = 0.0f;
    mine.each_channel([&](int c) {
        Column<float> column = x.at(c);
        mine.each_pixel([&](int i, int pixel) {
            Numbers number = i < KEPT ? kept[i] : column[pixel];
            for (int j = 0; j < LANES; j++) {
                squares += (number.of[j] - mean) * (number.of[j] - mean);
            }
        });
    });
    float rstd = 1.0f / sqrtf(block_sum(squares, groups) / count + eps);
    if (threadIdx.x < groups) {
        int at = mine.image * (C / size) + mine.group;
        mean_out[at] = mean;
        rstd_out[at] = rstd;
    }
    mine.each_channel([&](int c) {
        Numbers scale = *(const Numbers*)(weight + c), b = *(const Numbers*)(bias + c);
        for (int j = 0; j < LANES; j++) scale.of[j] *= rstd;
        Column<Stored> to = {y + (mine.start * C + c), C};
        Column<float> column = x.at(c);
        mine.each_pixel([&](int i, int pixel) {
            Numbers number = i < KEPT ? kept[i] : column[pixel];
            Vector<Stored> result;
            for (int j = 0; j < LANES; j++) {
                float z = (number.of[j] - mean) * scale.of[j] + b.of[j];
                result.of[j] = stored(with_silu ? z * sigmoid(z) : z);
            }
            to[pixel] = result;
        });
    });
}

__device__ inline float silu_slope(float z) {
    float s = sigmoid(z);
    return s * (1.0f + z * (1.0f - s));
}

// grid (blocks * N). With averages over the group, and n = (x - mean) rstd:
//     gx = rstd (w dz - avg(w dz) - n avg(w dz n));  gweight = sum dz n;  gbias = sum dz
// A thread keeps dz; x, which costs one operation, is read again, most likely from a cache.
// partial1, partial2: gradients already accumulated for the parts of x, added to gx unless null.
// sums [N, 2, C]: per-image sums of dz and dz n over pixels. The last block to finish them for the
// same groups sums them over images. counters [blocks]: zero on entry and on exit.
extern "C" __global__ void __launch_bounds__(MOST_THREADS_BACKWARD, 2)
group_norm_backward(const float* gy, const float* x1, const float* x2, int C1,
                    const float* weight, const float* bias, const float* mean, const float* rstd,
                    const float* partial1, const float* partial2, float* gx1, float* gx2,
                    float* gweight, float* gbias, float* sums, unsigned* counters, int P, int C,
                    int size, int groups, int blocks, int with_silu) {
    Share mine(P, size, groups, blocks);
    Parts x = {x1, x2, C1, C, mine.start}, gx = {gx1, gx2, C1, C, mine.start};
    Parts partial = {partial1, partial2, C1, C, mine.start};
    int count = P * size, at = mine.image * (C / size) + mine.group;
    float m = mean[at], r = rstd[at], average = 0.0f, average_n = 0.0f;
    Numbers kept[KEPT + 1];
    auto compute = [&](int i, int pixel, int c, const Numbers& number, const Numbers& scale) {
        kept[i] = *(const Numbers*)(gy + ((mine.start + pixel) * C + c));
        Numbers b = *(const Numbers*)(bias + c);
        for (int j = 0; j < LANES; j++) {
            float slope = silu_slope((number.of[j] - m) * scale.of[j] + b.of[j]);
            kept[i].of[j] *= with_silu ? slope : 1.0f;
        }
    };
    auto scaled = [&](int c) {
        Numbers w = *(const Numbers*)(weight + c);
        for (int j = 0; j < LANES; j++) w.of[j] *= r;
        return w;
    };
    mine.each_channel([&](int c) {
        Numbers scale = scaled(c), sum = {}, sum_n = {};
        Column<float> column = x.at(c);
        auto add_up = [&](int i, int pixel, bool inside) {
            Numbers number = column[pixel];
            compute(i, pixel, c, number, scale);
            if (!inside) kept[i] = {};
            for (int j = 0; j < LANES; j++) {
                sum.of[j] += kept[i].of[j];
                sum_n.of[j] += kept[i].of[j] * (number.of[j] - m);
            }
        };
        mine.each_kept_or_last(add_up);
        mine.each_other([&](int pixel) { add_up(KEPT, pixel, true); });
        for (int j = 0; j < LANES; j++) sum_n.of[j] *= r;
        sum = mine.sum_rows(sum), sum_n = mine.sum_rows(sum_n);
        if (mine.row > 0) return;
        *(Numbers*)(sums + (2 * mine.image * C + c)) = sum;
        *(Numbers*)(sums + ((2 * mine.image + 1) * C + c)) = sum_n;
        for (int j = 0; j < LANES; j++) {
            average += scale.of[j] * sum.of[j];
            average_n += scale.of[j] * sum_n.of[j];
        }
    });
    average = block_sum(average, groups) / count;
    average_n = r * block_sum(average_n, groups) / count;
    int N = gridDim.x / blocks;
    // block_sum had barriers, so thread 0 can publish the sums while others go on.
    __shared__ bool last;
    if (threadIdx.x == 0) last = count_block(counters + mine.block, N);
    mine.each_channel([&](int c) {
        Numbers scale = scaled(c);
        Column<float> column = x.at(c), added = partial.at(c), to = gx.at(c);
        bool adds = c < C1 ? partial1 : partial2;
        // All reads come before the first write, behind which the compiler would not move them.
        auto finish = [&](int i, Numbers number) {
            for (int j = 0; j < LANES; j++) {
                kept[i].of[j] = kept[i].of[j] * scale.of[j] - average;
                kept[i].of[j] -= (number.of[j] - m) * average_n;
            }
        };
        auto add = [&](int i, int pixel) {
            Numbers number = added[pixel];
            for (int j = 0; j < LANES; j++) kept[i].of[j] += number.of[j];
        };
        mine.each_kept([&](int i, int pixel) { finish(i, column[pixel]); });
        if (adds) mine.each_kept(add);
        mine.each_kept_or_last([&](int i, int pixel, bool inside) {
            if (inside) to[pixel] = kept[i];
        });
        mine.each_other([&](int pixel) {
            Numbers number = column[pixel];
            compute(KEPT, pixel, c, number, scale);
            finish(KEPT, number);
            if (adds) add(KEPT, pixel);
            to[pixel] = kept[KEPT];
        });
    });
    __syncthreads();
    if (!last) return;
    mine.each_channel([&](int c) {
        Numbers sum = {}, sum_n = {};
        for (int i = mine.row; i < N; i += mine.rows) {
            for (int j = 0; j < LANES; j++) {
                sum.of[j] += __ldcg(sums + (2 * i * C + c + j));
                sum_n.of[j] += __ldcg(sums + ((2 * i + 1) * C + c + j));
            }
        }
        sum = mine.sum_rows(sum), sum_n = mine.sum_rows(sum_n);
        if (mine.row > 0) return;
        *(Numbers*)(gbias + c) = sum;
        *(Numbers*)(gweight + c) = sum_n;
    });
}

// A 3 x 3 convolution to one channel, as at the end of a UNet for grey images. A tile of rung 4
// would have one column of 32 in use; here x is read, and little else happens: eight threads have a
// pixel, four of 32 channels each.
#include "convolution.cuh"
#include "last_block.cuh"

#define THREADS 256
#define PIXELS (THREADS / 8)  // of a block at a time
#define TAPS 9

// Grid (ceil(N OH OW / 32)). y [N, OH, OW, 1] = conv(x) + bias [1] + shift [N, 1] + extra, each of
// which may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
conv2d_column(const float* x, const float* w, const float* bias, const float* shift,
              const float* extra, float* y, SIZES) {
    int row = blockIdx.x * PIXELS + threadIdx.x / 8, part = threadIdx.x % 8;
    Forward p = {{x, nullptr, C}, w, bias, shift, extra, y, GIVEN};
    Corner corner = p.a_row(row);
    float sum = 0.0f;
#pragma unroll 1
    for (int c = 4 * part; c < C; c += 32) {
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
            Digits d;
            d.low = c, d.mid = tap % 3, d.high = tap / 3;
            auto a = p.a_at(corner, d);
            if (!a.inside) continue;
            float4 numbers = *(const float4*)a.from, weights = *(const float4*)(w + (tap * C + c));
            sum += numbers.x * weights.x + numbers.y * weights.y;
            sum += numbers.z * weights.z + numbers.w * weights.w;
        }
    }
    for (int lanes = 4; lanes; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (part == 0 && row < p.rows()) p.store(row, 0, sum);
}

// Grid (slices, ceil(C / 32)). gw [3, 3, C, 1]. parts [slices, 9, C]: each block's sums, which the
// last block for the same channels adds up, always in the same order. counters [gridDim.y]: zero on
// entry and on exit.
extern "C" __global__ void __launch_bounds__(THREADS)
gradient_w_column(const float* gy, const float* x, float* gw, float* parts, unsigned* counters,
                  SIZES) {
    __shared__ float shared[THREADS / 32][TAPS][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.y * 32 + lane % 8 * 4;
    float sums[TAPS][4] = {};
    Radix radix = {W, H};
    int row = blockIdx.x * PIXELS + threadIdx.x / 8;
    Digits pixel(row, radix), step(gridDim.x * PIXELS, radix);
    for (; row < N * H * W && c < C; row += gridDim.x * PIXELS, pixel.add(step, radix)) {
        float4 a = *(const float4*)(x + (row * C + c));
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
            int h = pixel.mid + top - tap / 3, column = pixel.low + left - tap % 3;
            bool inside = h >= 0 && h < OH && column >= 0 && column < OW;
            float g = inside ? gy[(pixel.high * OH + h) * OW + column] : 0.0f;
            sums[tap][0] += g * a.x, sums[tap][1] += g * a.y;
            sums[tap][2] += g * a.z, sums[tap][3] += g * a.w;
        }
    }
#pragma unroll
    for (int i = 0; i < 4 * TAPS; i++) {
        float& sum = sums[i / 4][i % 4];
        for (int lanes = 16; lanes >= 8; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
        if (lane < 8) shared[warp][i / 4][lane * 4 + i % 4] = sum;
    }
    __syncthreads();
    int c0 = blockIdx.y * 32;
    for (int i = threadIdx.x; i < TAPS * 32; i += THREADS) {
        float sum = 0.0f;
        for (int j = 0; j < THREADS / 32; j++) sum += shared[j][i / 32][i % 32];
        int at = i / 32 * C + c0 + i % 32;
        if (c0 + i % 32 < C) parts[blockIdx.x * TAPS * C + at] = sum;
    }
    if (!last_block(counters + blockIdx.y, gridDim.x)) return;
    for (int i = threadIdx.x; i < TAPS * 32; i += THREADS) {
        int at = i / 32 * C + c0 + i % 32;
        if (c0 + i % 32 >= C) continue;
        float sum = 0.0f;
#pragma unroll 16
        for (int j = 0; j < gridDim.x; j++) sum += __ldcg(parts + (j * TAPS * C + at));
        gw[at] = sum;
    }
}

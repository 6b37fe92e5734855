// The gradients that are sums over all pixels of all images, computed by a Tile (tiled.cuh).
//
// gw has few tiles with long sums, which sliced.cuh divides between blocks. The gradient of the
// bias is summed over images by the last block, too. Unrolled loops have many loads under way.
#include "sliced.cuh"

// Sum gy for 32 channels: gshift [N, K] over the pixels of image n, gbias [K] over all images.
__device__ inline void sum_pixels(const float* gy, float* gshift, float* gbias, unsigned* counters,
                                  float* memory, int group, int n, const Sizes& s) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, k = group * 32 + lane;
    const int WARPS = THREADS / 32;
    int P = s.OH * s.OW;
    float sum = 0.0f;
    if (k < s.K) {
#pragma unroll 16
        for (int p = warp; p < P; p += WARPS) sum += gy[((long long)n * P + p) * s.K + k];
    }
    memory[threadIdx.x] = sum;
    __syncthreads();
    if (warp == 0 && k < s.K) {
        for (int w = 1; w < WARPS; w++) sum += memory[w * 32 + lane];
        gshift[(long long)n * s.K + k] = sum;
    }
    if (!last_block(counters + group, s.N) || warp > 0 || k >= s.K) return;
    sum = 0.0f;
#pragma unroll 16
    for (int i = 0; i < s.N; i++) sum += __ldcg(gshift + (long long)i * s.K + k);
    gbias[k] = sum;
}

// Sums over a block of whole warps: by shuffles within a warp, and through shared memory between
// warps. The order of the additions is always the same.
#define MOST_WARPS 16
#define MOST_CLASSES 16

// Return the sum over the threads whose number has the same remainder by `classes`, a power of two
// up to MOST_CLASSES, to each of them.
template <class T> __device__ inline T block_sum(T value, int classes = 1) {
    __shared__ T warp_sums[MOST_WARPS][MOST_CLASSES];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int lanes = 16; lanes >= classes; lanes /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, lanes);
    }
    if (lane < classes) warp_sums[warp][lane] = value;
    __syncthreads();
    T total = 0;
    for (int w = 0; w < blockDim.x / 32; w++) total += warp_sums[w][lane & (classes - 1)];
    __syncthreads();  // the next sum must not overwrite what others still read
    return total;
}

// Return whether this block is the last of `blocks` to call this, so that it may add up what all
// of them have written. All threads of a block call it together.
//
// The first barrier makes the block's writes visible to its thread 0. The __threadfence() before
// the atomic publishes them; the one after it makes the other blocks' writes visible to a thread 0
// that has seen their counts, and the second barrier to all threads of its block. The last block
// sets the counter back to zero for the next launch. It should read with __ldcg, which bypasses the
// first-level cache: that cache does not see writes of other multiprocessors.
__device__ inline bool last_block(unsigned* counter, unsigned blocks) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        __threadfence();
        last = atomicAdd(counter, 1u) == blocks - 1;
        __threadfence();
        if (last) *counter = 0;
    }
    __syncthreads();
    return last;
}

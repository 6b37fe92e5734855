// Return whether this block is the last of `blocks` to call this function. It may then add up what
// all of them have written. All threads of a block must call it.
//
// The first barrier makes the block's writes visible to its thread 0. The __threadfence() before
// the atomic publishes them. The one after it makes the writes of all blocks counted before visible
// to thread 0, and the second barrier to the whole block. The last block resets the counter to zero
// for the next launch. It should read with __ldcg, which bypasses the first-level cache, because
// that cache does not see writes of other multiprocessors.
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

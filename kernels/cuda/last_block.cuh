// Return, in the thread that calls it, whether its block is the last of `blocks` to be counted. It
// may then read, with __ldcg, what all blocks had written before. One thread of each block calls it,
// after a barrier, which makes the block's writes visible to this thread.
//
// The __threadfence() before the atomic publishes them. The one after it makes the writes of all
// blocks counted before visible to this thread, and the next barrier to its block. The last block
// resets the counter to zero for the next launch. __ldcg bypasses the first-level cache, because
// that cache does not see writes of other multiprocessors.
__device__ inline bool count_block(unsigned* counter, unsigned blocks) {
    __threadfence();
    bool last = atomicAdd(counter, 1u) == blocks - 1;
    __threadfence();
    if (last) *counter = 0;
    return last;
}

// Return whether this block is the last of `blocks` to call this function. It may then add up what
// all of them have written. All threads of a block must call it.
__device__ inline bool last_block(unsigned* counter, unsigned blocks) {
    __syncthreads();
    bool first_thread = threadIdx.x == 0 && threadIdx.y == 0;
    return __syncthreads_or(first_thread && count_block(counter, blocks));  // a barrier, too
}

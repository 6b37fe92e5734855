// Whether this block is the last of `blocks` to come here, so that it may add up what all of them
// have written. All threads of a block call it together.
//
// The barrier hands what a block's threads wrote to one of them. What was there before its
// __threadfence() is seen by whoever sees the counter go up afterwards, makes a fence in turn, and
// by those to whom the second barrier hands it. The last one sets the counter back to zero, for the
// next launch. It should read with __ldcg: past its own first-level cache, which knows nothing of
// other multiprocessors' writes.
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

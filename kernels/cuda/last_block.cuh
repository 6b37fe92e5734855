// Whether this block is the last of `blocks` to come here, so that it may add up what all of them
// have written. All threads of a block call it together.
//
// What a thread wrote before __threadfence() is seen by whoever sees the counter go up afterwards;
// the barrier makes that hold for all threads of the block. The last one sets the counter back to
// zero, for the next launch. It should read with __ldcg: past its own first-level cache, which
// knows nothing of other multiprocessors' writes.
__device__ inline bool last_block(unsigned* counter, unsigned blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        last = atomicAdd(counter, 1u) == blocks - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

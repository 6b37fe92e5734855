// Exercise 19: the sum of a row, by all threads of a block together.
//
//     y[r] = sum over i of x[r, i]      for r = 0 .. rows-1; x [rows, n]
//
// First each thread sums every 128th number of the row, by turns as in exercise 18. That leaves 128
// partial sums, one in each thread. Threads of a block exchange numbers through shared memory:
// `__shared__ float sums[128];` declares one array for the whole block. In each round half of the
// threads add the other half's sums to theirs:
//
//     with 8 threads:
//
//     thread t      0         1         2         3         4     5     6     7
//     sums          s0        s1        s2        s3        s4    s5    s6    s7
//     round 1     + s4      + s5      + s6      + s7        nothing to add         sums[t + 4]
//     round 2     + sums[2] + sums[3]   nothing to add                             sums[t + 2]
//     round 3     + sums[1]   nothing to add                                       sums[t + 1]
//     y[r]          sums[0]
//
// Before a thread reads what another one wrote, both have to pass a barrier, __syncthreads(). All
// threads of the block have to reach it, those with nothing to add, too.
//
// Launch: grid (rows), block (128). n: at least 1; it may be smaller than 128. Reach: at most 60
// requests to read shared memory per row (one thread that adds 128 sums makes 128), and one request
// for every 32 numbers of x.
//
// Check your solution: python examples/exercises/check.py 19

extern "C" __global__ void block_sum(const float* x, float* y, int n) {
    // TODO
}

// Hints. Scroll down, and read one at a time.
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
//
// 1. blockIdx.x is the row.
// 2. Every thread writes its partial sum, 0 if it had no number; then a barrier.
// 3. for (int half = 64; half > 0; half /= 2): threads below half add; then all pass a barrier.
// 4. The barrier is in the loop, but outside the if.
// 5. At the end one thread writes y[blockIdx.x].

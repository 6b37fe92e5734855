// Exercise 18: a coalesced copy. Neighbouring threads, neighbouring numbers.
//
//     y[i] = x[i]      for i = 0 .. n-1, by fewer threads than numbers
//
// Threads run in warps of 32, and a warp reads at once, in one request. Memory delivers sectors of
// 32 bytes, which are 8 floats; a request costs as many sectors as its 32 numbers lie in. Which
// numbers should a thread copy? With 4 threads and 12 numbers:
//
//     a piece for each thread               by turns
//
//     x  0 1 2 3 4 5 6 7 8 9 10 11          x  0 1 2 3 4 5 6 7 8 9 10 11
//        a a a b b b c c c d d  d              a b c d a b c d a b c  d      thread
//        |     |     |     |                   | | | |
//        one request: four places              one request: one place
//
// With pieces of 8 or more numbers a request takes 32 sectors, and 28 of each 32 bytes are thrown
// away. By turns it takes 4, as few as 128 bytes can: reach 4.
//
// Launch: grid (2), block (64), so 128 threads in all. The kernel may not rely on these numbers:
// gridDim.x is the number of blocks, blockDim.x the number of threads in each.
// x, y: n numbers each. n: at least 1; smaller or larger than the number of threads.
//
// Check your solution: python examples/exercises/check.py 18

extern "C" __global__ void copy(const float* x, float* y, int n) {
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
// 1. The number of threads in all is gridDim.x * blockDim.x.
// 2. A thread begins at its index of exercise 17, and goes on by the number of threads in all.
// 3. for (int i = ...; i < n; i += ...): the loop's condition is the bounds check.

// Exercise 17: map. One thread for each number.
//
//     y[i] = a x[i] + b      for i = 0 .. n-1
//
// A kernel is run by many threads at once, in blocks of equal size. A thread knows its place by
// threadIdx.x, blockIdx.x and blockDim.x (the threads of a block), and makes an index of them:
//
//     n = 150, launched with 3 blocks of 64 threads
//
//     blockIdx.x             0                   1                   2
//     threadIdx.x     0  1  ...  63       0  1  ...  63       0  1 ... 21 | 22 ... 63
//     i               0  1  ...  63      64 65  ... 127     128 129 .. 149| nothing to do
//
// Launch: grid (ceil(n / 64)), block (64). x, y: n numbers each. n: any number of at least 1. On a
// GPU a read beyond the array may go unnoticed, and destroy another array; the emulator reports it.
// (CUDA C++ Programming Guide, section "Kernels".)
//
// Check your solution: python examples/exercises/check.py 17

extern "C" __global__ void map(const float* x, float* y, float a, float b, int n) {
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
// 1. The blocks before this one have blockIdx.x * blockDim.x threads.
// 2. Only threads whose index is below n read and write anything.

// Exercise 20: transpose through shared memory.
//
//     y[c, r] = x[r, c]      x [H, W], y [W, H]
//
// A warp that reads along a row of x writes along a column of y, and there its 32 numbers lie in 32
// sectors. So a block reads a square of 32 x 32 numbers along rows, keeps it in shared memory, and
// writes it along rows of y: both accesses are coalesced, and the turn happens in between.
//
//     x [H, W]                 tile [32][32]             y [W, H]
//     +-------------+          written by rows,          +-----------+
//     |     [a b]   |          read by columns           |           |
//     |     [c d]   |  ----->     [a b]      ----->      |           |
//     |             |             [c d]                  |   [a c]   |
//     +-------------+                                    |   [b d]   |
//      square (blockIdx.y, blockIdx.x)                   +-----------+
//                                                  square (blockIdx.x, blockIdx.y)
//
// Shared memory has 32 banks; word i is in bank i % 32. Threads of a warp that access different
// words of one bank wait for each other. A column of [32][32] lies in a single bank.
//
// Launch: grid (ceil(W / 32), ceil(H / 32)), block (32, 32), where threads of equal threadIdx.y are
// a warp. H, W: any. Reach: as few sectors as possible, and no bank conflict.
// (Harris 2013, "An efficient matrix transpose in CUDA C/C++".)
//
// Check your solution: python examples/exercises/check.py 20

extern "C" __global__ void transpose(const float* x, float* y, int H, int W) {
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
// 1. Read: row blockIdx.y * 32 + threadIdx.y, column blockIdx.x * 32 + threadIdx.x, if inside of x.
// 2. A barrier, outside of every if.
// 3. Write: row blockIdx.x * 32 + threadIdx.y of y, column blockIdx.y * 32 + threadIdx.x of y,
//    if inside of y. In the tile this number is at [threadIdx.x][threadIdx.y].
// 4. With rows of 33 words the numbers of a column are in different banks: tile[32][33].

// Exercise 22: a matrix product by tiles.
//
//     y[m, k] = sum over c of a[m, c] b[c, k]      a [M, C], b [C, K], y [M, K]
//
// A thread computes one number of y. If it reads what it needs from global memory, that is two
// reads for each multiplication, and neighbours read the same numbers again. Instead, the 16 x 16
// threads of a block fetch a tile of a and a tile of b together, one number each, and use each
// number 16 times:
//
//                      b      +-----------+
//                             |  [b0]     |        y of the block = a0 b0 + a1 b1 + ...
//                             |  [b1]     |
//                             +-----------+        for each pair of tiles:
//     a +-----------+       y +-----------+            fetch both into shared memory
//       |           |         |           |            barrier
//       | [a0] [a1] |         |  [ y ]    |            16 multiplications per thread
//       +-----------+         +-----------+            barrier
//
// Why the second barrier? Without it a fast thread fetches the next tile while a slow one still
// reads this one.
//
// Launch: grid (ceil(K / 16), ceil(M / 16)), block (16, 16). M, C, K: any; beyond the edges of a
// and b a tile has zeros. Reach: 8 requests to global memory for each tile (the 256 threads are 8
// warps, and each reads once), and no bank conflict.
//
// Check your solution: python examples/exercises/check.py 22

extern "C" __global__ void product(const float* a, const float* b, float* y, int M, int C, int K) {
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
// 1. row = blockIdx.y * 16 + threadIdx.y, column = blockIdx.x * 16 + threadIdx.x of y.
// 2. For start = 0, 16, 32, ... < C: this thread fetches a[row, start + threadIdx.x] and
//    b[start + threadIdx.y, column], each only if it is inside, else 0.
// 3. Threads outside of y may not return early: they fetch, and they pass the barriers.
// 4. Then sum += tile_a[threadIdx.y][d] * tile_b[d][threadIdx.x] for d = 0 .. 15.

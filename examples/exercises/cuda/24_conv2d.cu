// Exercise 24: a convolution, from naive to a register tile.
//
//     y[n, i, j, k] = sum over kh, kw, c of x[n, i + kh - 1, j + kw - 1, c] w[kh, kw, c, k]
//
// 3 x 3, with zeros outside of x. x [N, H, W, C], w [3, 3, C, K], y [N, H, W, K].
//
// A thread computes 16 results: 4 neighbouring pixels of a row and 4 neighbouring output channels.
// For one kh, kw and c it needs 4 numbers of x and 4 of w, and each is used 4 times. If they are
// read once, into registers, 8 reads serve 16 multiplications:
//
//                        w[kh, kw, c, k .. k+3]
//                          w0   w1   w2   w3           naive: for each of the 16 results
//     x[.., j+kw-1, c] x0  +    +    +    +                   2 reads, 1 multiplication
//     x[.., j+kw,   c] x1  +    +    +    +
//     x[.., j+kw+1, c] x2  +    +    +    +            tile: 8 reads, 16 multiplications;
//     x[.., j+kw+2, c] x3  +    +    +    +                  sums[4][4] stay in registers
//
// Write it naively first: the check then says how many reads there are for each multiplication.
// Reach 0.5, where the reads of x that are outside the image do not count.
//
// Launch: block (64), grid (ceil(threads / 64)), with one thread for each element of an array
// [N, H, ceil(W / 4), K / 4]: image, row, group of 4 pixels, group of 4 output channels. Thread i
// is element i. N, H, W, C: any. K: a multiple of 4.
// (What follows on a GPU is in kernels/cuda/conv4_registers.cu.)
//
// Check your solution: python examples/exercises/check.py 24

extern "C" __global__ void conv2d(const float* x, const float* w, float* y, int N, int H, int W,
                                  int C, int K) {
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
// 1. Take i apart from the right: k = 4 * (i % (K / 4)), i /= K / 4, j = 4 * (i % groups),
//    i /= groups, row = i % H, n = i / H, where groups = (W + 3) / 4. Return if n >= N.
// 2. float sums[4][4] = {}; is in registers if its indices are known when it is compiled: loops
//    from 0 to 3 with #pragma unroll are.
// 3. Innermost, for each kh, kw, c: fill float xs[4] and ws[4], then 16 multiplications.
// 4. A number of x outside the image is 0: compare row and column with H and W.
// 5. Of the last group of a row, only pixels with j + p < W are written.

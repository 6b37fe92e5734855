// Exercise 23: group normalisation, forward.
//
//     y = (x - mean) / sqrt(variance + eps) weight + bias         x, y [N, P, C]: P pixels
//
// mean and variance are those of a group: S = C / G neighbouring channels of all pixels of one
// image (exercise 13). One block handles one group of one image, reading it three times:
//
//     x of image n, one row per pixel        group g = 1
//     channel   0 1 2 3 4 5 6 7                              1. sum          -> mean
//     pixel 0   . . # # . . . .         S = 2 channels,      2. sum of (x - mean)^2 -> variance
//     pixel 1   . . # # . . . .         P S numbers          3. y
//     pixel 2   . . # # . . . .
//
// Both sums are block sums (exercise 19); all threads need their results. The second one is a trap:
// a thread that is fast begins it while another one still reads the result of the first.
//
// The variance is the mean of (x - mean)^2. The mean of x^2 minus the square of the mean is the
// same number on paper, but in float32 it loses all digits where the mean is large.
//
// Launch: grid (N G), block (128); block n G + g handles group g of image n. weight, bias [C].
// P, C, G: any for which G divides C. eps: above 0. Reach: no race, and the right result for x
// around 1000, too.
//
// Check your solution: python examples/exercises/check.py 23

extern "C" __global__ void group_norm(const float* x, const float* weight, const float* bias,
                                      float* y, int P, int C, int G, float eps) {
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
// 1. A function `__device__ float block_sum(float value)` above the kernel is called twice. It ends
//    with a barrier after every thread has read the total.
// 2. Number i of the group, 0 .. P S - 1, is in pixel i / S and channel g S + i % S.
// 3. Its place in x is (n P + pixel) C + channel.
// 4. 1.0f / sqrtf(variance + eps) once per thread.

// Exercise 21: softmax with shuffles.
//
//     y[r, i] = exp(x[r, i] - max) / (sum over j of exp(x[r, j] - max))      x, y [R, n]
//
// max is the largest number of row r, which may be below 0. The largest exponent is then 0, and
// nothing overflows. One warp handles one row, and its lanes exchange numbers without shared memory
// and without barriers, by a shuffle: each lane gets the number of another lane from its register.
//
//     __shfl_xor_sync(0xffffffffu, value, bits)      the value of lane (own number XOR bits)
//
//     lane        0     1     2     3     4     5     6     7
//     bits = 4    +-----|-----|-----|-----+     |     |     |     0 with 4, 1 with 5, ...
//     bits = 2    +-----|-----+     |     +-----|-----+     |     0 with 2, 1 with 3, ...
//     bits = 1    +-----+     +-----+     +-----+     +-----+     0 with 1, ...
//
// After bits = 16, 8, 4, 2, 1, each time value = value + shuffled (or the larger of both), every
// lane has the sum (or maximum) of all 32. All lanes named in the mask have to take part.
//
// Launch: grid (R), block (32). n: at least 1, smaller or larger than 32. Reach: no shared memory,
// as few sectors as possible for x and y, and at most 16 requests to read a row of 96 numbers (nine
// read it three times, a lane that reads alone makes 96 each time).
//
// Check your solution: python examples/exercises/check.py 21

extern "C" __global__ void softmax(const float* x, float* y, int n) {
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
// 1. A lane handles every 32nd number of its row. The row begins at x + (long long)blockIdx.x * n.
// 2. Three loops over the row: the maximum, the sum of expf(x - max), the results.
// 3. A lane without a number has to take part in the shuffles. Begin with a value that changes
//    nothing: the row's first number for the maximum, 0 for the sum.
// 4. fmaxf(a, b) is the larger of two floats.

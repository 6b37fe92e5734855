// Rung 4: each thread has 8 x 8 results in registers, and reads four numbers at a time.
//
// Rung 3 reads two numbers from shared memory for each multiplication. Here a thread reads 8 + 8,
// as four vectors, for 64 multiplications. The next tile is fetched into registers before the
// current one is multiplied, and written to the other half of shared memory afterwards (double
// buffering), so that one barrier per tile is enough.
//
// What is left to save is arithmetic on addresses: it takes the place of multiplications. A thread
// knows its rows; along the depth it counts digits instead of dividing (digits.cuh, fetch.cuh).
#include "convolution.cuh"
#include "product.cuh"

#include "sliced.cuh"

#include "conv2d.cuh"
#include "conv2d_gradients.cuh"

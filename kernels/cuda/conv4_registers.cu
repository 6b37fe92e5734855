// Rung 4: each thread has 4 x 4 results in registers, and reads four numbers at a time.
//
// Rung 3 reads two numbers from shared memory for each multiplication. Here a thread reads 4 + 4,
// as two vectors, for 16 multiplications. The next tile is fetched into registers before the
// current one is multiplied, and written to the other half of shared memory afterwards (double
// buffering), so that one barrier per tile is enough.
#include "convolution.cuh"
#include "product.cuh"

#include "conv2d.cuh"
#include "conv2d_gradients.cuh"

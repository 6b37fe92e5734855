// Rung 4: each thread has 4 x 4 results in registers, and numbers come four at a time.
//
// Rung 3 reads two numbers of shared memory for each multiplication. Here a thread reads 4 + 4, as
// two vectors, for 16. While a tile is multiplied the next one is already on its way: fetched into
// registers before, written to the other half of shared memory after (double buffering), so that
// one barrier per tile is enough.
#include "convolution.cuh"
#include "product.cuh"

#include "conv2d.cuh"
#include "conv2d_gradients.cuh"

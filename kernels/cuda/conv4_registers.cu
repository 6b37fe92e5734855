// Rung 4: each thread has 8 x 8 results in registers, and reads four numbers at a time.
//
// Rung 3 reads two numbers from shared memory for each multiplication. Here a thread reads 8 + 8 at
// each depth, in vectors of four, for 64 multiplications. While a tile is multiplied, the next one
// is copied to another part of shared memory, so that one barrier per tile is enough. From sm_80 on
// it does not pass through registers, and the copy begins two tiles ahead; on a T4 it is fetched
// into registers before the multiplication and stored after it.
//
// What is left to save is arithmetic on addresses: it takes the place of multiplications. A thread
// knows its rows, all its vectors of a tile have one depth, and along the depth it counts digits
// instead of dividing (digits.cuh, fetch.cuh).
//
// This is the forward. Each other use of the tile is a file of its own, because CUDA's compiler takes
// seconds for each, and a program waits only for those that it uses.
#include "convolution.cuh"
#include "product.cuh"

#include "sliced.cuh"

#include "conv2d.cuh"

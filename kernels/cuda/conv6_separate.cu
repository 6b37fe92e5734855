// Rung 6's two gradients, each in a kernel of its own: for the benchmarks of the ladder, and for
// the transposed convolution, which is the gradient of x.
#include "tensor.cuh"

#include "conv2d_separate.cuh"

// Rung 6's backward, all gradients in one launch: what training uses.
#include "tensor.cuh"

#include "conv2d_gradients.cuh"

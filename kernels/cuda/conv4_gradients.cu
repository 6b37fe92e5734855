// Rung 4's backward, all gradients in one launch: what training uses.
#include "convolution.cuh"
#include "product.cuh"

#include "conv2d_gradients.cuh"

// Rung 4's convolution with the linear layer of a residual path, forward and backward.
#include "convolution.cuh"
#include "product.cuh"

#include "conv2d_shortcut.cuh"

// Rung 6's convolution with the linear layer of a residual path, forward and backward.
#include "tensor.cuh"

#include "conv2d_shortcut.cuh"

"""Linear layers: the matrix products of matrix_product.py."""

import sys

from minddpm.kernels import reference
from minddpm.kernels.cpu import matrix_product
from minddpm.kernels.float32 import float32_only

CPU = sys.modules[__package__]  # this kernel set, fully imported when a function runs


@float32_only
def linear(xs, w, b, extra=None):
    return matrix_product.forward(xs, w, b, extra)


@float32_only
def linear_backward(gy, xs, w, partial=()):
    return matrix_product.backward(gy, xs, w, partial)


def linears(x, ws, bs):
    return reference.linears(x, ws, bs, kernels=CPU)


def linears_backward(gys, x, ws, partial=None):
    return reference.linears_backward(gys, x, ws, partial, kernels=CPU)

"""Linear layers: the matrix products of matrix_product.py."""

import sys

from minddpm.kernels import reference
from minddpm.kernels.cpu import matrix_product
from minddpm.kernels.cpu.pointwise import add_all, add_to
from minddpm.kernels.float32 import float32_only

CPU = sys.modules[__package__]  # this kernel set, fully imported when a function runs


@float32_only
def linear(xs, w, b, extra=None):
    return add_to(matrix_product.forward(xs, w, b), extra)


@float32_only
def linear_backward(gy, xs, w, partial=()):
    gxs, gw, gb = matrix_product.backward(gy, xs, w)
    return add_all(gxs, partial), gw, gb


def linears(x, ws, bs):
    return reference.linears(x, ws, bs, kernels=CPU)


def linears_backward(gys, x, ws, partial=None):
    return reference.linears_backward(gys, x, ws, partial, kernels=CPU)

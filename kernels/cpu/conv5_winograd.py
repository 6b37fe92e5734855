"""Rung 5: Winograd F(4x4), 36 products where the definition has 144; see conv4_winograd.py."""

import numpy as np

from minddpm.kernels.cpu.conv4_winograd import Sources, backward, forward, layer


def conv2d(x, w, b, padding, M=4):
    """y of kernels.reference.conv2d for a 3x3 window of stride 1."""
    bias = np.zeros(w.shape[3], np.float32) if b is None else b
    return forward(layer((x,), w.shape, padding, M), Sources.of((x,)), w, bias)


def conv2d_backward(gy, x, w, padding, need_gx=True, M=4):
    """gx, gw, gb of kernels.reference.conv2d_backward for a 3x3 window of stride 1."""
    gxs = (np.empty_like(x),) if need_gx else ()
    gw, gb, _ = backward(layer((x,), w.shape, padding, M), Sources.of((x,)), gy, w, gxs)
    return (gxs[0] if need_gx else None), gw, gb.sum(axis=0)

"""The mean squared error of each image, and its gradient."""

import math

import numpy as np
from numba import njit

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.memory import address, array_at, empty, floats, items
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.float32 import float32_only


@float32_only
def mean_squared_errors(x, target):
    N, P, errors = len(x), math.prod(x.shape[1:]), empty(len(x))
    _errors(threads.pieces(N), address(x), address(target), N, P, address(errors))
    return errors


@task
def _errors(piece, pieces, worker, at):
    x_at, target_at, N, P, errors_at = integers(at, 5)
    x, target, errors = array_at(x_at, (N, P)), array_at(target_at, (N, P)), floats(errors_at, N)
    for n in items(N, piece, pieces):
        errors[n] = _sum_of_squared_differences(x[n], target[n]) / P


# These flags let LLVM sum in vector lanes: in a fixed order, which is not the loop's.
@njit(fastmath={"reassoc", "nsz"})
def _sum_of_squared_differences(x, target):
    total = 0.0
    for i in range(x.size):
        difference = np.float64(x[i] - target[i])
        total += difference * difference
    return total


@float32_only
def mean_squared_errors_backward(gy, x, target):
    N, P, gx = len(x), math.prod(x.shape[1:]), empty(x.shape)
    arrays = (address(a) for a in (gy, x, target, gx))
    _errors_backward(threads.pieces(N), *arrays, N, P)
    return gx


@task
def _errors_backward(piece, pieces, worker, at):
    gy_at, x_at, target_at, gx_at, N, P = integers(at, 6)
    gy, gx = floats(gy_at, N), array_at(gx_at, (N, P))
    x, target = array_at(x_at, (N, P)), array_at(target_at, (N, P))
    for n in items(N, piece, pieces):
        factor = gy[n] * np.float32(2 / P)
        for i in range(P):
            gx[n, i] = factor * (x[n, i] - target[n, i])

import numpy as np


def silu_backward(gy, x):
    s = (1 + np.tanh(x / 2)) / 2
    return gy * (s + x * s * (1 - s))

import numpy as np


def group_norm_backward(gy, x, weight, groups, eps):
    N, H, W, C = x.shape

    def grouped(values):
        return values.reshape(N, H, W, groups, C // groups)

    def average(values):
        return values.mean(axis=(1, 2, 4), keepdims=True)

    centred = grouped(x) - average(grouped(x))
    rstd = 1 / np.sqrt(average(centred**2) + eps)
    n, gn = centred * rstd, grouped(gy * weight)
    gx = rstd * (gn - average(gn) - n * average(gn * n))
    gweight = (gy * n.reshape(x.shape)).sum(axis=(0, 1, 2))
    return gx.reshape(x.shape), gweight, gy.sum(axis=(0, 1, 2))

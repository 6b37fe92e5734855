import numpy as np


def conv2d_backward(gy, x, w):
    N, H, W, C = x.shape
    p = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    gp, gw = np.zeros_like(p), np.zeros_like(w)
    for kh in range(3):
        for kw in range(3):
            window = p[:, kh : kh + H, kw : kw + W].reshape(N * H * W, C)
            gp[:, kh : kh + H, kw : kw + W] += gy @ w[kh, kw].T
            gw[kh, kw] = window.T @ gy.reshape(N * H * W, -1)
    return gp[:, 1:-1, 1:-1], gw, gy.sum(axis=(0, 1, 2))

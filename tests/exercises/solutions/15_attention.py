import numpy as np


def attention_backward(gy, q, k, v):
    scale = 1 / np.sqrt(q.shape[2])
    s = q @ k.swapaxes(1, 2) * scale
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    gp = gy @ v.swapaxes(1, 2)
    gs = p * (gp - (gp * p).sum(axis=-1, keepdims=True))
    return gs @ k * scale, gs.swapaxes(1, 2) @ q * scale, p.swapaxes(1, 2) @ gy

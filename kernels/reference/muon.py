"""Muon: the momentum of each weight matrix, made orthogonal, is the step."""

import numpy as np

from minddpm.kernels.arrays import Array, array_module
from minddpm.kernels.reference.optimizer import Number, ema

# X -> a X + b (X X^T) X + c (X X^T)^2 X, five times: brings singular values of .01 to 1 into about
# .7 .. 1.2, which is near enough to 1. The coefficients are Jordan's.
ITERATIONS, A, B, C = 5, 3.4445, -4.7750, 2.0315
EPS = 1e-7  # a gradient of zeros stays zero


def muon(
    param: Array, grad: Array, momentum: Array, average: Array | None, layout: np.ndarray,
    lr: Number, beta: float, weight_decay: float, grad_scale: Number, ema_decay: Number,
) -> None:  # fmt: skip
    """Take one step of Muon (Jordan et al. 2024) on the matrices of a flat buffer, in place.

    param, grad, momentum, average: [P]. layout: int64 [n, 3], the start, rows and columns of each
    matrix in them, on the host, because they decide what is launched; numbers between matrices do
    not change. grad_scale, ema_decay, average and a Number are those of adam(). With g the gradient
    of a matrix [R, C]:
    momentum = beta momentum + (1 - beta) g;  u = beta momentum + (1 - beta) g      (Nesterov)
    param -= lr (0.2 sqrt(max(R, C)) orthogonal(u) + weight_decay param)
    Why 0.2 sqrt(max(R, C))? The entries of an orthogonal matrix have the root mean square
    1 / sqrt(max(R, C)), and Adam's steps about 0.2 to 0.4: both can use one learning rate (Liu et
    al. 2025, "Muon is scalable for LLM training", section 2.2).
    """
    xp = array_module(param)
    if not xp.isfinite(xp.asarray(grad_scale)):
        return
    for start, rows, columns in layout.tolist():
        part = slice(start, start + rows * columns)
        g, m = grad[part] * grad_scale, momentum[part]
        m *= beta
        m += (1 - beta) * g
        u = beta * m + (1 - beta) * g
        step = orthogonal(u.reshape(rows, columns)).reshape(-1)
        param[part] *= 1 - lr * weight_decay
        param[part] -= lr * 0.2 * max(rows, columns) ** 0.5 * step
        if average is not None:
            ema(average[part], param[part], ema_decay)


def orthogonal(u: Array) -> Array:
    """Return about U V^T, where u [R, C] = U S V^T, by Newton and Schulz's iteration.

    U V^T changes all directions equally, where u itself is nearly of low rank: few directions of a
    weight have nearly all of its gradient. No singular value is computed: an odd polynomial of
    u acts on each of them alone.
    """
    xp = array_module(u)
    wide = u.shape[0] < u.shape[1]
    x = u.T if wide else u
    x = x / (xp.sqrt(xp.square(x).sum()) + EPS)  # no singular value is above 1
    for _ in range(ITERATIONS):
        gram = x.T @ x  # of the smaller side
        x = A * x + x @ (B * gram + C * (gram @ gram))
    return x.T if wide else x

"""Naive versions of the kernels: plain float64 loops, written from the definitions.

They share no line with kernels/. The fast kernels are tested against them.
"""

import math

import numpy as np


def conv2d(x, w, b, stride, padding):
    (top, bottom), (left, right) = padding
    N, H, W, _ = x.shape
    KH, KW, _, C_out = w.shape
    OH, OW = (H + top + bottom - KH) // stride + 1, (W + left + right - KW) // stride + 1
    y = np.zeros((N, OH, OW, C_out))
    for n in range(N):
        for i in range(OH):
            for j in range(OW):
                for kh in range(KH):
                    for kw in range(KW):
                        a, c = i * stride + kh - top, j * stride + kw - left
                        if 0 <= a < H and 0 <= c < W:
                            y[n, i, j] += x[n, a, c].astype(float) @ w[kh, kw].astype(float)
                y[n, i, j] += b
    return y


def conv_transpose2d(x, w, b, stride, padding):
    """w [KH, KW, C_out, C_in]: each pixel of x adds a window to y, which is then cropped."""
    (top, bottom), (left, right) = padding
    N, H, W, _ = x.shape
    KH, KW, C_out, _ = w.shape
    uncropped = np.zeros((N, (H - 1) * stride + KH, (W - 1) * stride + KW, C_out))
    for n in range(N):
        for i in range(H):
            for j in range(W):
                for kh in range(KH):
                    for kw in range(KW):
                        for c_out in range(C_out):
                            value = w[kh, kw, c_out].astype(float) @ x[n, i, j].astype(float)
                            uncropped[n, i * stride + kh, j * stride + kw, c_out] += value
    return uncropped[:, top : uncropped.shape[1] - bottom, left : uncropped.shape[2] - right] + b


def group_norm(x, weight, bias, groups, eps):
    N, C = x.shape[0], x.shape[-1]
    flat = x.reshape(N, -1, C).astype(float)
    y = np.empty_like(flat)
    size = C // groups
    for n in range(N):
        for g in range(groups):
            part = slice(g * size, (g + 1) * size)
            values = flat[n, :, part].ravel()
            mean = sum(values) / len(values)
            var = sum((v - mean) ** 2 for v in values) / len(values)
            y[n, :, part] = (flat[n, :, part] - mean) / math.sqrt(var + eps)
    return (y * weight + bias).reshape(x.shape)


def silu(x):
    return np.array([v / (1 + math.exp(-v)) for v in x.ravel().astype(float)]).reshape(x.shape)


def attention(q, k, v, heads):
    N, L, C = q.shape
    D = C // heads
    y = np.zeros((N, L, C))
    for n in range(N):
        for h in range(heads):
            part = slice(h * D, (h + 1) * D)
            for i in range(L):
                s = [float(q[n, i, part] @ k[n, j, part]) / math.sqrt(D) for j in range(L)]
                p = [math.exp(a - max(s)) for a in s]
                for j in range(L):
                    y[n, i, part] += p[j] / sum(p) * v[n, j, part]
    return y


def upsample_nearest(x):
    N, H, W, C = x.shape
    y = np.zeros((N, 2 * H, 2 * W, C))
    for i in range(2 * H):
        for j in range(2 * W):
            y[:, i, j] = x[:, i // 2, j // 2]
    return y


def adam(param, grad, m, v, step, lr, beta1, beta2, eps, weight_decay, grad_scale):
    """Return the new (param, m, v)."""
    out = []
    for p, g, a, b in zip(*(np.asarray(x, float) for x in (param, grad, m, v)), strict=True):
        g = g * grad_scale
        a = beta1 * a + (1 - beta1) * g
        b = beta2 * b + (1 - beta2) * g * g
        a_hat, b_hat = a / (1 - beta1**step), b / (1 - beta2**step)
        p = p - lr * (a_hat / (math.sqrt(b_hat) + eps) + weight_decay * p)
        out.append((p, a, b))
    return tuple(np.array(x) for x in zip(*out, strict=True))


def muon(param, grad, momentum, layout, lr, beta, weight_decay, grad_scale):
    """Return the new (param, momentum); the polynomial acts on singular values."""
    p, g, m = (np.array(x, float) for x in (param, grad, momentum))
    for start, rows, columns in layout:
        part = slice(start, start + rows * columns)
        m[part] = beta * m[part] + (1 - beta) * grad_scale * g[part]
        nesterov = beta * m[part] + (1 - beta) * grad_scale * g[part]
        U, s, Vt = np.linalg.svd(nesterov.reshape(rows, columns), full_matrices=False)
        s = s / (math.sqrt((s**2).sum()) + 1e-7)
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        step = 0.2 * math.sqrt(max(rows, columns)) * (U * s) @ Vt
        p[part] -= lr * (step.ravel() + weight_decay * p[part])
    return p, m

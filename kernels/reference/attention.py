"""Softmax attention, forward and backward."""

from minddpm.kernels.arrays import Array, array_module


def _heads(x: Array, heads: int) -> Array:
    """[N, L, heads*D] -> [N, heads, L, D]"""
    N, L, C = x.shape
    return x.reshape(N, L, heads, C // heads).transpose(0, 2, 1, 3)


def _merge(x: Array) -> Array:
    """[N, heads, L, D] -> [N, L, heads*D]"""
    N, heads, L, D = x.shape
    return x.transpose(0, 2, 1, 3).reshape(N, L, heads * D)


def _attention_weights(q: Array, k: Array) -> Array:
    """Return p = softmax(q k^T / sqrt(D)) over the last axis, [N, heads, L, L]."""
    xp = array_module(q)
    s = q @ k.swapaxes(-1, -2)
    s *= q.shape[-1] ** -0.5
    s -= s.max(axis=-1, keepdims=True)  # softmax(s + c) = softmax(s): the largest exponent is now 0
    p = xp.exp(s)
    p /= p.sum(axis=-1, keepdims=True)
    return p


Saved = tuple[Array, ...]  # what a kernel set's backward needs of its forward; none here


def attention(q: Array, k: Array, v: Array, heads: int) -> tuple[Array, Saved]:
    """Return y = softmax(q k^T / sqrt(D)) v per head (Vaswani et al. 2017), and `saved`.

    All arrays are [N, L, heads*D].
    """
    q, k, v = (_heads(a, heads) for a in (q, k, v))
    return _merge(_attention_weights(q, k) @ v), ()


def attention_backward(
    gy: Array, q: Array, k: Array, v: Array, saved: Saved, heads: int
) -> tuple[Array, Array, Array]:
    """Return gq, gk, gv. With s = q k^T / sqrt(D), p = softmax(s) (computed again), y = p v:

    gv = p^T gy;  gp = gy v^T;  gs = p (gp - sum_j gp_j p_j) as dp_i/ds_j = p_i (delta_ij - p_j);
    gq = gs k / sqrt(D);  gk = gs^T q / sqrt(D)
    """
    gy, q, k, v = (_heads(a, heads) for a in (gy, q, k, v))
    p = _attention_weights(q, k)
    gv = p.swapaxes(-1, -2) @ gy
    gp = gy @ v.swapaxes(-1, -2)
    gs = p * (gp - (gp * p).sum(axis=-1, keepdims=True))
    gs *= q.shape[-1] ** -0.5
    return _merge(gs @ k), _merge(gs.swapaxes(-1, -2) @ q), _merge(gv)

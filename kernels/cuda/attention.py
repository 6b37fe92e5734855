"""Attention without an L x L matrix in memory (attention.cu)."""

from minddpm.kernels import reference
from minddpm.kernels.cuda.launch import blocks, empty, launch
from minddpm.kernels.float32 import float32_only

MAX_HEAD_CHANNELS = 256  # the most that attention.cu supports


def _launch(name: str, q, heads: int, *arrays) -> None:
    N, L, C = q.shape
    D = C // heads
    launch(
        "attention.cu", name, (blocks(L, 7) * heads * N,), (32, 7), *arrays, L, D, heads,
        shared=4 * (32 * (D + 1) + 14 * D),
    )  # fmt: skip


@float32_only
def attention(q, k, v, heads: int):
    if q.shape[2] > MAX_HEAD_CHANNELS * heads:
        return reference.attention(q, k, v, heads)
    (y,) = empty(q.shape)
    _launch("attention", q, heads, q, k, v, y)
    return y


@float32_only
def attention_backward(gy, q, k, v, heads: int):
    if q.shape[2] > MAX_HEAD_CHANNELS * heads:
        return reference.attention_backward(gy, q, k, v, heads)
    N, L, _ = q.shape
    gq, gk, gv, stats = empty(q.shape, q.shape, q.shape, (N, heads, L, 2))
    _launch("attention_gradient_q", q, heads, gy, q, k, v, gq, stats)
    _launch("attention_gradient_kv", q, heads, gy, q, k, v, stats, gk, gv)
    return gq, gk, gv

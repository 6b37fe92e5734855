"""Attention without an L x L matrix in memory (attention.cu)."""

from minddpm.kernels import reference
from minddpm.kernels.cuda.launch import aligned, blocks, empty, launch
from minddpm.kernels.float32 import float32_only

MAX_HEAD_CHANNELS = 256  # the most that attention.cu supports


def _launch(name: str, parts: int, q, heads: int, *arrays) -> None:
    N, L, C = q.shape
    D, lanes = C // heads, 1  # lanes: of a query, with 8 channels each
    while 8 * lanes < D:
        lanes *= 2
    rows = min(64, 256 // lanes)
    launch(
        "attention.cu", name, (parts * blocks(L, rows) * heads * N,), (rows * lanes,), *arrays, L,
        D, heads, D % 4 == 0 and aligned(*arrays),
        options=(f"-DLANES={lanes}",) if lanes > 1 else (),
    )  # fmt: skip


@float32_only
def attention(q, k, v, heads: int):
    N, L, C = q.shape
    if C // heads > MAX_HEAD_CHANNELS:
        return reference.attention(q, k, v, heads)
    y, log_sums = empty(q.shape, (N, heads, L))
    _launch("attention", 1, q, heads, q, k, v, y, log_sums)
    return y, (y, log_sums)


@float32_only
def attention_backward(gy, q, k, v, saved, heads: int):
    if not saved:
        return reference.attention_backward(gy, q, k, v, saved, heads)
    gradients = empty(*[q.shape] * 3)
    _launch("attention_gradients", 2, q, heads, gy, q, k, v, *saved, *gradients)
    return gradients

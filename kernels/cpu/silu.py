"""SiLU on its own: LLVM's vectoriser would call tanh for one number after the other."""

from numba import get_num_threads

from minddpm.kernels.cpu.memory import address, share
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.instructions import BYTES, Emitter, W, kernel


@kernel
def _silu(e: Emitter, x, y, vectors) -> None:
    """y = x sigmoid(x), `vectors` (at least 1) vectors."""

    def one(moving, carried):
        v = e.load(moving[0])
        e.store(e.mul(v, e.sigmoid(v)), moving[1])
        return carried

    e.loop(vectors, [(x, BYTES), (y, BYTES)], [], one)


@kernel
def _silu_backward(e: Emitter, gy, x, gx, vectors) -> None:
    """gx = gy s (1 + x (1 - s)) with s = sigmoid(x), `vectors` (at least 1) vectors."""

    def one(moving, carried):
        g, v = e.load(moving[0]), e.load(moving[1])
        s = e.sigmoid(v)
        slope = e.fma(v, e.sub(e.const(1), s), e.const(1))
        e.store(e.mul(e.mul(g, s), slope), moving[2])
        return carried

    e.loop(vectors, [(gy, BYTES), (x, BYTES), (gx, BYTES)], [], one)


@task
def _forward(t, threads, at):
    x, y, n = integers(at, 3)
    first, end = share(n // W, t, threads), share(n // W, t + 1, threads)
    if end > first:
        _silu((x + 4 * W * first, y + 4 * W * first, end - first))
    if t == threads - 1 and n % W:  # the last W numbers, some of them once more
        _silu((x + 4 * (n - W), y + 4 * (n - W), 1))


def forward(x, y):
    """y = silu(x), flat arrays of at least W numbers."""
    _forward(get_num_threads(), address(x), address(y), x.size)


@task
def _backward(t, threads, at):
    gy, x, gx, n = integers(at, 4)
    first, end = share(n // W, t, threads), share(n // W, t + 1, threads)
    if end > first:
        at_first = 4 * W * first
        _silu_backward((gy + at_first, x + at_first, gx + at_first, end - first))
    if t == threads - 1 and n % W:
        at_last = 4 * (n - W)
        _silu_backward((gy + at_last, x + at_last, gx + at_last, 1))


def backward(gy, x, gx):
    """Its gradient, likewise."""
    _backward(get_num_threads(), address(gy), address(x), address(gx), x.size)

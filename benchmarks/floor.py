"""The least time that a training step could take: its products at the peak, or its bytes.

Products: what the kernels multiply and add after Winograd, tiles that reach over the edge included,
at the machine's FMA peak. Bytes: every array that goes into or comes out of a kernel, once, at the
bandwidth of the memory. No step can be faster than the larger of the two; transforms, norms and
activations, which are neither, come on top.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from minddpm import backend
from minddpm.kernels import cpu
from minddpm.kernels.cpu import linear as rows
from minddpm.kernels.cpu.ladder import choose as ladder
from minddpm.kernels.cpu.ladder.layer import Layer, tile_counts
from minddpm.kernels.cpu.ladder.shape import Shape


def winograd_flops(s: Layer) -> int:
    TH, TW = tile_counts(s)
    return 2 * (s.M + 2) ** 2 * s.N * TH * TW * (s.C1 + s.C2) * s.K


def direct_flops(x: np.ndarray, w: np.ndarray, stride: int, padding: Any) -> int:
    s = Shape.of(x.shape, w.shape, stride, padding)
    return 2 * s.N * s.OH * s.OW * s.KH * s.KW * s.C * s.K


def direct_backward_flops(
    gy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: Any, need_gx: bool = True
) -> int:
    return (1 + need_gx) * direct_flops(x, w, stride, padding)


def attention_products(count: int) -> Callable[..., int]:
    """q k^T and p v have 2 L^2 C flops each; the backward has five such products."""
    return lambda *args: count * 2 * args[0].shape[0] * args[0].shape[1] ** 2 * args[0].shape[2]


# Where the products are, and how many flops a call with these arguments has.
PRODUCTS: list[tuple[Any, str, Callable[..., int]]] = [
    (cpu.winograd, "forward", lambda s, *_: winograd_flops(s)),
    (cpu.winograd, "backward", lambda s, source, gy, w, gxs: (1 + bool(gxs)) * winograd_flops(s)),
    (rows, "linear", lambda xs, w, b: 2 * xs[0].size // xs[0].shape[-1] * w.size),
    (rows, "linear_backward", lambda gy, xs, w: 4 * gy.size // gy.shape[-1] * w.size),
    (cpu._attention, "forward", attention_products(2)),
    (cpu._attention, "backward", attention_products(5)),
]


def array_bytes(x: Any) -> int:
    if isinstance(x, (tuple, list)):
        return sum(map(array_bytes, x))
    return x.nbytes if isinstance(x, np.ndarray) else 0


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Counts flops and bytes of all kernels within the block (the Numba backend)."""
    total = {"flops": 0, "bytes": 0}

    def counted(key: str, function: Callable[..., Any], cost: Callable[..., int]) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            total[key] += cost(result, *args) if key == "bytes" else cost(*args)
            return result

        return call

    direct = ladder.LADDER["3 implicit GEMM"]
    replaced = direct._replace(
        forward=counted("flops", direct.forward, lambda x, w, b, *how: direct_flops(x, w, *how)),
        backward=counted("flops", direct.backward, direct_backward_flops),
    )
    patches = [mock.patch.dict(ladder.LADDER, {"3 implicit GEMM": replaced})]
    for module, name, cost in PRODUCTS:
        function = counted("flops", getattr(module, name), cost)
        patches.append(mock.patch.object(module, name, function))
    for name in cpu.__all__:
        if name not in ("constant_weights", "philox4x32"):
            function = counted("bytes", getattr(cpu, name), lambda *all: array_bytes(all))
            patches.append(mock.patch.object(backend.kernels, name, function))
    for patch in patches:
        patch.start()
    try:
        yield total
    finally:
        for patch in reversed(patches):
            patch.stop()

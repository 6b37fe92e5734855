"""A lower bound on the time of a training step, from its products and from its memory traffic.

Products: the kernels' multiplications and additions after Winograd, including tiles that extend
over the edge, at the machine's FMA peak. Bytes: every kernel's input and output arrays, counted
once, at the memory bandwidth. No step can be faster than the larger of the two. Neither bound
includes transforms, norms and activations, which take additional time.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np

from minddpm import backend, set_backend
from minddpm.kernels import cpu
from minddpm.kernels.cpu import matrix_product
from minddpm.kernels.cpu.ladder import conv4_winograd as winograd
from minddpm.kernels.cpu.ladder.choose import LADDER
from minddpm.kernels.cpu.ladder.layer import Layer, tile_counts
from minddpm.kernels.cpu.ladder.shape import Shape
from unets import Expected, Problem, build, without_replay


def winograd_flops(s: Layer) -> int:
    TH, TW = tile_counts(s)
    return 2 * (s.M + 2) ** 2 * s.N * TH * TW * (s.C1 + s.C2) * s.C_out


def direct_flops(x: np.ndarray, w: np.ndarray, stride: int, padding: Any) -> int:
    s = Shape.of(x.shape, w.shape, stride, padding)
    return 2 * s.N * s.OH * s.OW * s.KH * s.KW * s.C * s.C_out


def direct_backward_flops(
    gy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: Any, need_gx: bool = True
) -> int:
    return (1 + need_gx) * direct_flops(x, w, stride, padding)


def attention_products(count: int) -> Callable[..., int]:
    """Return a function that counts the flops of `count` products like q k^T: 2 N L^2 C each."""
    return lambda *args: count * 2 * args[0].shape[0] * args[0].shape[1] ** 2 * args[0].shape[2]


# (module, function name, function that maps a call's arguments to its flops) for every kernel with
# products; the backward of attention has five products.
PRODUCTS: list[tuple[Any, str, Callable[..., int]]] = [
    (winograd, "forward", lambda s, *_: winograd_flops(s)),
    (winograd, "backward", lambda s, source, gy, w, gxs, *_: (1 + bool(gxs)) * winograd_flops(s)),
    (matrix_product, "forward", lambda xs, w, *_: 2 * xs[0].size // xs[0].shape[-1] * w.size),
    (matrix_product, "backward", lambda gy, xs, w, *_: 4 * gy.size // gy.shape[-1] * w.size),
    (cpu, "attention", attention_products(2)),
    (cpu, "attention_backward", attention_products(5)),
]


def array_bytes(x: Any) -> int:
    if isinstance(x, (tuple, list)):
        return sum(map(array_bytes, x))
    return x.nbytes if isinstance(x, np.ndarray) else 0


# Kernels that move no data of their own, or give arrays to others.
NOT_TIMED = (
    "constant_weights", "is_recording", "philox4x32", "replayed", "replayed_step",
)  # fmt: skip


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Count the flops and bytes of all kernels called in the block (Numba backend)."""
    total = {"flops": 0, "bytes": 0}

    def counted(key: str, function: Callable[..., Any], cost: Callable[..., int]) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            total[key] += cost(result, *args) if key == "bytes" else cost(*args)
            return result

        return call

    direct = LADDER["3 implicit GEMM"]
    replaced = direct._replace(
        forward=counted(
            "flops", direct.forward, lambda x, w, b, *geometry: direct_flops(x, w, *geometry)
        ),
        backward=counted("flops", direct.backward, direct_backward_flops),
    )
    with ExitStack() as patches:
        patches.enter_context(mock.patch.dict(LADDER, {"3 implicit GEMM": replaced}))
        for module, name, cost in PRODUCTS:
            function = counted("flops", getattr(module, name), cost)
            patches.enter_context(mock.patch.object(module, name, function))
        for name in cpu.__all__:
            if name not in NOT_TIMED:
                function = counted("bytes", getattr(cpu, name), lambda *arrays: array_bytes(arrays))
                patches.enter_context(mock.patch.object(backend.kernels, name, function))
        yield total


def training_step(p: Problem, wanted: Expected) -> dict[str, float]:
    """Return the flops and bytes of one training step (Numba backend)."""
    set_backend("numba")  # counting() patches the kernels of the active backend
    with without_replay(), counting() as total:
        build("numba", "train", p, wanted)  # takes two steps to verify them
    return {key: count / 2 for key, count in total.items()}

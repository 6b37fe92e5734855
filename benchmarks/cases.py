"""What is measured: the hot operations at the UNet's own shapes, and at a few awkward ones.

bench_*.py (pytest) and report.py (the tables of the READMEs) both take their cases from here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from minddpm.kernels import reference

SAME = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))


class Operation(NamedTuple):
    """One function of kernels/reference.py with its arguments."""

    function: str
    arguments: tuple[Any, ...]
    gradient: tuple[Any, ...] | None = None  # arguments of function_backward, if it has one
    in_place: bool = False  # the result is the first argument

    def call(self, backward: bool) -> tuple[str, tuple[Any, ...]]:
        """Name and arguments of the function of this direction."""
        if backward:
            return f"{self.function}_backward", self.gradient
        return self.function, self.arguments

    @property
    def flops(self) -> int:
        """Multiplications and additions of a convolution by its definition, forward alone."""
        x, w, _, stride, padding = self.arguments
        N, H, W, _ = x.shape
        KH, KW, C, K = w.shape
        (top, bottom), (left, right) = padding
        OH, OW = (H + top + bottom - KH) // stride + 1, (W + left + right - KW) // stride + 1
        return 2 * KH * KW * C * K * OH * OW * N


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Standard normals times scale, float32."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)


def convolution(N: int, H: int, C: int, K: int, window: int = 3, stride: int = 1) -> Operation:
    """A convolution of N pictures of H x H, padded so that only the stride makes them smaller."""
    rng = np.random.default_rng(0)
    padding = SAME if window == 3 else NONE
    x, b = normal(rng, N, H, H, C), normal(rng, K)
    w = normal(rng, window, window, C, K, scale=(window**2 * C) ** -0.5)
    OH = (H + 2 * padding[0][0] - window) // stride + 1
    gy = normal(rng, N, OH, OH, K)
    return Operation("conv2d", (x, w, b, stride, padding), (gy, x, w, stride, padding))


def transposed_convolution(N: int, H: int, C: int, K: int) -> Operation:
    """One of N pictures of H x H to twice the size, as in DCGAN's generator."""
    rng = np.random.default_rng(0)
    x, b, gy = normal(rng, N, H, H, C), normal(rng, K), normal(rng, N, 2 * H, 2 * H, K)
    w = normal(rng, 4, 4, K, C, scale=(4 * C) ** -0.5)
    return Operation("conv_transpose2d", (x, w, b, 2, SAME), (gy, x, w, 2, SAME))


def linear(rows: int, C: int, K: int) -> Operation:
    """A linear layer of `rows` rows."""
    rng = np.random.default_rng(0)
    x, w, b = normal(rng, rows, C), normal(rng, C, K, scale=C**-0.5), normal(rng, K)
    return Operation("linear", ((x,), w, b), (normal(rng, rows, K), (x,), w))


def norm_silu(N: int, H: int, C: int, groups: int = 8) -> Operation:
    """Group normalisation and SiLU, the pair in front of every convolution."""
    rng = np.random.default_rng(0)
    x, w, b = normal(rng, N, H, H, C), 1 + normal(rng, C, scale=0.1), normal(rng, C)
    arguments = (x, w, b, groups, 1e-5)
    _, mean, rstd = reference.group_norm_silu(*arguments)
    gy = normal(rng, N, H, H, C)
    return Operation("group_norm_silu", arguments, (gy, x, w, b, mean, rstd, groups))


def half_block(N: int, H: int, C: int, K: int, groups: int = 8) -> Operation:
    """Half a residual block: norm, SiLU, 3x3 convolution, a bias for each image, the residual."""
    rng = np.random.default_rng(0)
    x, extra, gy = normal(rng, N, H, H, C), normal(rng, N, H, H, K), normal(rng, N, H, H, K)
    weight, bias = 1 + normal(rng, C, scale=0.1), normal(rng, C)
    w, b = normal(rng, 3, 3, C, K, scale=(9 * C) ** -0.5), normal(rng, K)
    shift = normal(rng, N, K)
    norm = ((x,), weight, bias)
    _, mean, rstd = reference.group_norm_silu(x, weight, bias, groups, 1e-5)
    return Operation(
        "norm_silu_conv2d",
        (*norm, groups, 1e-5, w, b, shift, extra),
        (gy, *norm, (mean, rstd), groups, w),
    )


def attention(N: int, L: int, C: int, heads: int) -> Operation:
    """Attention over L pixels."""
    rng = np.random.default_rng(0)
    q, k, v, gy = (normal(rng, N, L, C) for _ in range(4))
    return Operation("attention", (q, k, v, heads), (gy, q, k, v, heads))


def silu(size: int) -> Operation:
    """SiLU alone, as between the convolutions of a VAE and a GAN."""
    rng = np.random.default_rng(0)
    x, gy = normal(rng, size), normal(rng, size)
    return Operation("silu", (x,), (gy, x))


def upsample(N: int, H: int, C: int) -> Operation:
    """Twice the height and width."""
    rng = np.random.default_rng(0)
    gradient = (normal(rng, N, 2 * H, 2 * H, C),)
    return Operation("upsample_nearest", (normal(rng, N, H, H, C),), gradient)


def adam(P: int) -> Operation:
    """The first step of Adam on P parameters."""
    rng = np.random.default_rng(0)
    m, v = np.zeros(P, np.float32), np.zeros(P, np.float32)
    numbers = (1, 1e-4, 0.9, 0.999, 1e-8, 0.0, 1.0, 0.999)
    arguments = (normal(rng, P), normal(rng, P), m, v, None, *numbers)
    return Operation("adam", arguments, in_place=True)


def ema(P: int) -> Operation:
    """The moving average of P parameters."""
    rng = np.random.default_rng(0)
    return Operation("ema", (normal(rng, P), normal(rng, P), 0.999), in_place=True)


def noising(N: int) -> Operation:
    """x_t of N digits."""
    rng = np.random.default_rng(0)
    a = rng.random(N, dtype=np.float32)
    x0, noise = (normal(rng, N, 28, 28, 1) for _ in range(2))
    return Operation("q_sample", (x0, noise, a, np.sqrt(1 - a * a)))


def sampler_step(N: int) -> Operation:
    """What a reverse step does beside the network."""
    rng = np.random.default_rng(0)
    arrays = (normal(rng, N, 28, 28, 1) for _ in range(3))
    return Operation("sampler_step", (*arrays, (1.2, -0.6, 0.1, 0.9, 0.0, 0.05), True))


CONVOLUTIONS = {  # (H, C, K) of SMALL; more channels come in than go out where a skip is joined
    "conv 28x28 32->32": (28, 32, 32),
    "conv 28x28 64->32": (28, 64, 32),
    "conv 14x14 64->64": (14, 64, 64),
    "conv 14x14 128->64": (14, 128, 64),
    "conv 7x7 64->64": (7, 64, 64),
    "conv 7x7 128->64": (7, 128, 64),
}
AWKWARD_CONVOLUTIONS = {
    "conv 33x33 5->5": (33, 5, 5),
    "conv 1x1 32->32": (1, 32, 32),
    "conv 7x7 130->130": (7, 130, 130),
}
SMALL_PARAMETERS = 1_623_169


def convolutions(N: int, awkward: bool = False) -> dict[str, Callable[[], Operation]]:
    """name -> a function that makes the case, so that no more than one is in memory."""
    shapes = {**CONVOLUTIONS, **(AWKWARD_CONVOLUTIONS if awkward else {})}
    return {name: partial(convolution, N, *shape) for name, shape in shapes.items()}


def other_operations(N: int) -> dict[str, Callable[[], Operation]]:
    """The same for everything else that a training or a sampling step consists of."""
    return {
        "conv 28x28 1->32": partial(convolution, N, 28, 1, 32),
        "conv 28x28 32->1": partial(convolution, N, 28, 32, 1),
        "conv 28x28 32->32 stride 2": partial(convolution, N, 28, 32, 32, stride=2),
        "conv 14x14 64->64 stride 2": partial(convolution, N, 14, 64, 64, stride=2),
        "window 1x1 28x28 96->32": partial(convolution, N, 28, 96, 32, window=1),
        "window 1x1 14x14 128->64": partial(convolution, N, 14, 128, 64, window=1),
        "conv transposed 7x7 128->64": partial(transposed_convolution, N, 7, 128, 64),
        "conv transposed 14x14 64->32": partial(transposed_convolution, N, 14, 64, 32),
        "conv transposed 16x16 128->64": partial(transposed_convolution, N, 16, 128, 64),
        "conv transposed 14x14 64->1": partial(transposed_convolution, N, 14, 64, 1),
        "linear 49 rows/image 64->64": partial(linear, 49 * N, 64, 64),
        "linear 1 row/image 128->64": partial(linear, N, 128, 64),
        "half block 28x28x32": partial(half_block, N, 28, 32, 32),
        "half block 14x14x64": partial(half_block, N, 14, 64, 64),
        "half block 7x7x64": partial(half_block, N, 7, 64, 64),
        "norm+silu 28x28x32": partial(norm_silu, N, 28, 32),
        "norm+silu 14x14x128": partial(norm_silu, N, 14, 128),
        "norm+silu 7x7x64": partial(norm_silu, N, 7, 64),
        "norm+silu 33x33x5": partial(norm_silu, N, 33, 5, 5),
        "attention 7x7x64": partial(attention, N, 49, 64, 8),
        "attention 16x16x64": partial(attention, N, 256, 64, 8),
        "silu 14x14x64": partial(silu, N * 14 * 14 * 64),
        "upsample 14x14x64": partial(upsample, N, 14, 64),
        "noising 28x28x1": partial(noising, N),
        "sampler step 28x28x1": partial(sampler_step, N),
        "adam 1.6M": partial(adam, SMALL_PARAMETERS),
        "ema 1.6M": partial(ema, SMALL_PARAMETERS),
    }


def directions(cases: dict[str, Callable[[], Operation]]) -> list[tuple[str, bool]]:
    """(name, backward) of everything in `cases`; what has no backward comes once."""
    forward_only = ("noising", "sampler", "adam", "ema")
    return [
        (name, backward)
        for name in cases
        for backward in (False, True)
        if not (backward and name.startswith(forward_only))
    ]

"""The benchmark cases: the hot operations at the UNet's own shapes and at a few awkward ones.

Both bench_*.py (pytest) and readme_tables.py (the tables of the documentation) use these cases.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from minddpm.kernels import reference

SAME = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))


class Operation(NamedTuple):
    """One function of kernels/reference/ with its arguments."""

    function: str
    arguments: tuple[Any, ...]
    gradient: tuple[Any, ...] | None = None  # arguments of function_backward, if it has one
    in_place: bool = False  # the result is written into the first argument

    def call(self, backward: bool) -> tuple[str, tuple[Any, ...]]:
        """Return the name and the arguments of the forward or the backward function."""
        if backward:
            return f"{self.function}_backward", self.gradient
        return self.function, self.arguments

    @property
    def flops(self) -> int:
        """Multiplications and additions in the definition of a convolution, forward only."""
        x, w, _, stride, padding = self.arguments
        N, H, W, _ = x.shape
        KH, KW, C_in, C_out = w.shape
        (top, bottom), (left, right) = padding
        OH, OW = (H + top + bottom - KH) // stride + 1, (W + left + right - KW) // stride + 1
        return 2 * KH * KW * C_in * C_out * OH * OW * N


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Return float32 standard normal numbers times scale."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)


def convolution(
    N: int, H: int, C_in: int, C_out: int, kernel_size: int = 3, stride: int = 1
) -> Operation:
    """Return a convolution of N images of H x H; with its padding, only the stride reduces H."""
    rng = np.random.default_rng(0)
    padding = SAME if kernel_size == 3 else NONE
    x, b = normal(rng, N, H, H, C_in), normal(rng, C_out)
    w = normal(rng, kernel_size, kernel_size, C_in, C_out, scale=(kernel_size**2 * C_in) ** -0.5)
    OH = (H + 2 * padding[0][0] - kernel_size) // stride + 1
    gy = normal(rng, N, OH, OH, C_out)
    return Operation("conv2d", (x, w, b, stride, padding), (gy, x, w, stride, padding))


def transposed_convolution(N: int, H: int, C_in: int, C_out: int) -> Operation:
    """Return a transposed convolution that doubles N images of H x H, as in DCGAN's generator."""
    rng = np.random.default_rng(0)
    x, b = normal(rng, N, H, H, C_in), normal(rng, C_out)
    gy = normal(rng, N, 2 * H, 2 * H, C_out)
    w = normal(rng, 4, 4, C_out, C_in, scale=(4 * C_in) ** -0.5)
    return Operation("conv_transpose2d", (x, w, b, 2, SAME), (gy, x, w, 2, SAME))


def linear(rows: int, C_in: int, C_out: int) -> Operation:
    """Return a linear layer applied to `rows` rows."""
    rng = np.random.default_rng(0)
    x, b = normal(rng, rows, C_in), normal(rng, C_out)
    w = normal(rng, C_in, C_out, scale=C_in**-0.5)
    return Operation("linear", ((x,), w, b), (normal(rng, rows, C_out), (x,), w))


def norm_silu(N: int, H: int, C: int, groups: int = 8) -> Operation:
    """Return group normalisation and SiLU, the pair before every convolution."""
    rng = np.random.default_rng(0)
    x, w, b = normal(rng, N, H, H, C), 1 + normal(rng, C, scale=0.1), normal(rng, C)
    arguments = (x, w, b, groups, 1e-5)
    _, mean, rstd = reference.group_norm_silu(*arguments)
    gy = normal(rng, N, H, H, C)
    return Operation("group_norm_silu", arguments, (gy, x, w, b, mean, rstd, groups))


def half_block(N: int, H: int, C_in: int, C_out: int, groups: int = 8) -> Operation:
    """Return half a residual block: norm, SiLU, 3x3 convolution, bias per image, residual."""
    rng = np.random.default_rng(0)
    x = normal(rng, N, H, H, C_in)
    extra, gy = normal(rng, N, H, H, C_out), normal(rng, N, H, H, C_out)
    weight, bias = 1 + normal(rng, C_in, scale=0.1), normal(rng, C_in)
    w, b = normal(rng, 3, 3, C_in, C_out, scale=(9 * C_in) ** -0.5), normal(rng, C_out)
    shift = normal(rng, N, C_out)
    norm = ((x,), weight, bias)
    _, mean, rstd = reference.group_norm_silu(x, weight, bias, groups, 1e-5)
    return Operation(
        "norm_silu_conv2d",
        (*norm, groups, 1e-5, w, b, shift, extra),
        (gy, *norm, (mean, rstd), groups, w),
    )


def attention(N: int, L: int, C: int, heads: int) -> Operation:
    """Return attention over L pixels."""
    rng = np.random.default_rng(0)
    q, k, v, gy = (normal(rng, N, L, C) for _ in range(4))
    return Operation("attention", (q, k, v, heads), (gy, q, k, v, (), heads))


def silu(size: int) -> Operation:
    """Return SiLU alone, as between the convolutions of a VAE and a GAN."""
    rng = np.random.default_rng(0)
    x, gy = normal(rng, size), normal(rng, size)
    return Operation("silu", (x,), (gy, x))


def upsample(N: int, H: int, C: int) -> Operation:
    """Return nearest-neighbour upsampling to twice the height and width."""
    rng = np.random.default_rng(0)
    gradient = (normal(rng, N, 2 * H, 2 * H, C),)
    return Operation("upsample_nearest", (normal(rng, N, H, H, C),), gradient)


def adam(P: int) -> Operation:
    """Return the first step of Adam on P parameters."""
    rng = np.random.default_rng(0)
    m, v = np.zeros(P, np.float32), np.zeros(P, np.float32)
    numbers = (1, 1e-4, 0.9, 0.999, 1e-8, 0.0, 1.0, 0.999)
    arguments = (normal(rng, P), normal(rng, P), m, v, None, *numbers)
    return Operation("adam", arguments, in_place=True)


def ema(P: int) -> Operation:
    """Return the moving average of P parameters."""
    rng = np.random.default_rng(0)
    return Operation("ema", (normal(rng, P), normal(rng, P), 0.999), in_place=True)


def noising(N: int) -> Operation:
    """Return q_sample: x_t for N digits."""
    rng = np.random.default_rng(0)
    a = rng.random(N, dtype=np.float32)
    x0, noise = (normal(rng, N, 28, 28, 1) for _ in range(2))
    return Operation("q_sample", (x0, noise, a, np.sqrt(1 - a * a)))


def sampler_step(N: int) -> Operation:
    """Return the update of a reverse step, without the network."""
    rng = np.random.default_rng(0)
    arrays = (normal(rng, N, 28, 28, 1) for _ in range(3))
    return Operation("sampler_step", (*arrays, (1.2, -0.6, 0.1, 0.9, 0.0, 0.05), True))


# (H, C_in, C_out) of SMALL; C_in > C_out after a skip connection is concatenated.
CONVOLUTIONS = {
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
TABLE_BATCH = 128  # batch size of the tables in the documentation


def convolutions(N: int, awkward: bool = False) -> dict[str, Callable[[], Operation]]:
    """Return a function for each name, which makes the case: only one case is in memory."""
    shapes = {**CONVOLUTIONS, **(AWKWARD_CONVOLUTIONS if awkward else {})}
    return {name: partial(convolution, N, *shape) for name, shape in shapes.items()}


def other_operations(N: int) -> dict[str, Callable[[], Operation]]:
    """Return the same kind of functions for all other operations of a training or sampling step."""
    return {
        "conv 28x28 1->32": partial(convolution, N, 28, 1, 32),
        "conv 28x28 32->1": partial(convolution, N, 28, 32, 1),
        "conv 28x28 32->32 stride 2": partial(convolution, N, 28, 32, 32, stride=2),
        "conv 14x14 64->64 stride 2": partial(convolution, N, 14, 64, 64, stride=2),
        "window 1x1 28x28 96->32": partial(convolution, N, 28, 96, 32, kernel_size=1),
        "window 1x1 14x14 128->64": partial(convolution, N, 14, 128, 64, kernel_size=1),
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
    """Return (name, backward) for all cases; operations without a backward appear once."""
    forward_only = ("noising", "sampler", "adam", "ema")
    return [
        (name, backward)
        for name in cases
        for backward in (False, True)
        if not (backward and name.startswith(forward_only))
    ]

"""The arguments for the check of every function: awkward sizes, and some sizes of real models.

Awkward sizes: odd numbers of pixels, channel counts that no tile divides, an image of one pixel,
parts of unequal width, random streams that begin inside a block of four numbers; more pixels or
rows than fit into one slice of a gradient of w.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minddpm.gpucheck.convolutions import COLUMN, NONE, SUMS, WINOGRAD, convolutions, draw
from minddpm.kernels import reference
from minddpm.kernels.arrays import array_module
from minddpm.kernels.shapes import SAME, transposed_shape

# Tolerances, beside those of sums
ELEMENTWISE = 2e-6
NORMAL = 3e-6  # normals are computed with log, sin and cos
MUON = 3e-5  # rounding of small singular values grows with them
STREAM = (0xDEADBEEF, 7, (5 << 32) + 3)  # seed, purpose, step
FIRST = (0, 1, (1 << 34) + 3)  # element of a stream
EPS = 1e-2

Call = Callable[..., Any]


class Case(NamedTuple):
    """Arguments of one function of kernels/reference/, with NumPy arrays.

    tolerance: the largest allowed error, relative to the largest entry. call: a function whose
    result is compared, call(kernels, xp, *arguments); None: compare what `function` returns.
    """

    function: str
    arguments: tuple[Any, ...]
    tolerance: float = ELEMENTWISE
    call: Call | None = None

    def result(self, kernels: ModuleType, xp: ModuleType, arguments: tuple[Any, ...]) -> Any:
        """Return the result of this kernel set; arguments: arrays of its library xp."""
        if self.call is not None:
            return self.call(kernels, xp, *arguments)
        return getattr(kernels, self.function)(*arguments)


def every_case(quick: bool) -> list[Case]:
    """Return the cases of all functions, at least one for each."""
    return [
        case
        for make in (_convolutions, _linears, _norms, _attention, _blocks, _elementwise)
        for case in make(quick)
    ] + [*_diffusion(), *_lookups(), *_optimiser(), *_random()]


def _convolutions(quick: bool) -> list[Case]:
    cases = []
    for s in (*convolutions(quick), COLUMN):
        x, w, b, gy, *_ = s.arrays()
        how, tolerance = (s.stride, s.padding), WINOGRAD if s.C >= 256 else SUMS
        cases += [
            Case("conv2d", (x, w, b, *how), tolerance),
            Case("conv2d_backward", (gy, x, w, *how), tolerance),
            Case("conv2d_backward", (gy, x, w, *how, True, x), tolerance),
            Case("conv2d_backward", (gy, x, w, *how, False), tolerance),
        ]
    four = 4, 4, 2, SAME
    sizes = ((2, 3, 5, 8, 20, *four), (2, 1, 1, 17, 5, 7, 7, 1, NONE), (1, 7, 7, 3, 66, *four))
    for N, H, W, C, C_out, KH, KW, *how in sizes + _unless(quick, (16, 7, 7, 128, 64, *four)):
        x, w, b = draw(0, (N, H, W, C), (KH, KW, C_out, C), C_out)
        (gy,) = draw(1, transposed_shape(x.shape, w.shape, *how))
        cases += [
            Case("conv_transpose2d", (x, w, b, *how), SUMS),
            Case("conv_transpose2d_backward", (gy, x, w, *how), SUMS),
            Case("conv_transpose2d_backward", (gy, x, w, *how, True, x), SUMS),
            Case("conv_transpose2d_backward", (gy, x, w, *how, False), SUMS),
        ]
    sizes = ((2, 3, 5, 4, 8), (1, 7, 7, 3, 66), *_unless(quick, (16, 14, 14, 64, 64)))
    for N, H, W, C, C_out in sizes:
        x, w, b, gy = draw(0, (N, H, W, C), (3, 3, C, C_out), C_out, (N, 2 * H, 2 * W, C_out))
        cases += [
            Case("upsample_conv2d", (x, w, b), SUMS),
            Case("upsample_conv2d_backward", (gy, x, w), SUMS),
            Case("upsample_nearest", (x,), 0.0),
            Case("upsample_nearest_backward", (draw(1, (N, 2 * H, 2 * W, C))[0],)),
        ]
    return cases


def _unless(quick: bool, *more: Any) -> tuple[Any, ...]:
    return () if quick else more


def _linears(quick: bool) -> list[Case]:
    cases = []
    for rows, parts, C_out in ((7, (3, 2), 70), (270, (4, 8), 8), (1, (1, 2, 3), 1)):
        xs = tuple(draw(1, *[(rows, 1, C) for C in parts]))
        w, b, gy = draw(0, (sum(parts), C_out), C_out, (rows, 1, C_out))
        cases += [
            Case("linear", (xs, w, b, gy), SUMS),
            Case("linear_backward", (gy, xs, w, (None, *xs[1:])), SUMS),
        ]
    several = (((3, 49), 8, (8, 8, 8)), ((130,), 66, (3, 70)), ((3, 99), 4, (5,)))
    for shape, C, widths in several + _unless(quick, ((16, 49), 64, (64, 64, 64))):
        x, partial, *ws = draw(0, (*shape, C), (*shape, C), *[(C, width) for width in widths])
        bs, gys = draw(1, *widths), draw(2, *[(*shape, width) for width in widths])
        cases += [
            Case("linears", (x, tuple(ws), tuple(bs)), SUMS),
            Case("linears_backward", (tuple(gys), x, tuple(ws), partial), SUMS),
        ]
    return cases


def _norms(quick: bool) -> list[Case]:
    cases = []
    sizes = ((3, 7, 2, 3), (2, 100, 3, 32), (1, 49, 1, 260), *_unless(quick, (16, 784, 8, 4)))
    for N, P, groups, size in sizes:
        C = groups * size
        x, gy, weight, bias, partial = draw(0, (N, P, C), (N, P, C), C, C, (N, P, C))
        _, mean, rstd = reference.group_norm(x, weight, bias, groups, EPS)
        arrays = (x, weight, bias)
        cases += [
            Case("group_norm", (*arrays, groups, EPS), SUMS),
            Case("group_norm_silu", (*arrays, groups, EPS), SUMS),
            Case("group_norm_backward", (gy, x, weight, mean, rstd, groups, partial), 2e-5),
            Case("group_norm_silu_backward", (gy, *arrays, mean, rstd, groups), 2e-5),
        ]
    return cases


def _attention(quick: bool) -> list[Case]:
    """Attention: each backward needs what its own kernel set saved."""

    def forward(kernels: ModuleType, _: ModuleType, *arguments: Any) -> Any:
        return kernels.attention(*arguments)[0]

    def backward(kernels: ModuleType, _: ModuleType, gy: Any, *arguments: Any) -> Any:
        *qkv, heads = arguments
        return kernels.attention_backward(gy, *qkv, kernels.attention(*arguments)[1], heads)

    sizes = (
        (2, 31, 3, 8), (1, 49, 2, 5), (1, 70, 1, 33), (1, 31, 1, 256), (3, 1, 2, 1),
        *_unless(quick, (16, 49, 8, 8), (2, 196, 3, 16), (2, 196, 1, 40), (2, 100, 2, 64)),
    )  # fmt: skip
    cases = []
    for N, L, heads, D in sizes:
        q, k, v, gy = draw(0, *[(N, L, heads * D)] * 4)
        cases += [
            Case("attention", (q, k, v, heads), SUMS, forward),
            # scores beyond the range of e^x
            Case("attention", (20 * q, k, v, heads), 5e-5, forward),
            Case("attention_backward", (gy, q, k, v, heads), 1e-4, backward),
        ]
    return cases


def _blocks(quick: bool) -> list[Case]:
    """Half residual blocks: each backward needs the arrays that its own kernel set saved."""

    def forward(kernels: ModuleType, _: ModuleType, *arguments: Any) -> Any:
        return kernels.norm_silu_conv2d(*arguments)[0]

    def backward(kernels: ModuleType, _: ModuleType, gy: Any, partial: Any, *arguments: Any) -> Any:
        xs, weight, bias, groups, _, w, *_, extra = arguments
        _, saved = kernels.norm_silu_conv2d(*arguments)
        layer = (*extra[:2], partial) if isinstance(extra, tuple) else ()
        return kernels.norm_silu_conv2d_backward(
            gy, xs, weight, bias, saved, groups, w, partial, layer
        )

    sizes = ((2, 5, 7, (3, 5), 8), (1, 14, 3, (4, 8), 1), (1, 3, 3, (1, 2, 3), 8))
    cases = []
    for N, H, W, parts, C_out in sizes + _unless(quick, (16, 14, 14, (64, 64), 64)):
        C = sum(parts)
        y, of_parts = (N, H, W, C_out), [(N, H, W, c) for c in parts]
        weight, bias, w, b, shift, image, gy, *xs = draw(
            0, C, C, (3, 3, C, C_out), C_out, (N, C_out), y, y, *of_parts
        )
        partial = (None, *draw(1, *of_parts[1:]))
        for extra in (image, (tuple(xs), *draw(2, (C, C_out), C_out))):  # a linear layer of x
            arguments = (tuple(xs), weight, bias, 2, EPS, w, b, shift, extra)
            cases += [
                Case("norm_silu_conv2d", arguments, SUMS, forward),
                Case("norm_silu_conv2d_backward", (gy, partial, *arguments), 2e-5, backward),
            ]
    return cases


def _elementwise(quick: bool) -> list[Case]:
    def added_to(kernels: ModuleType, _: ModuleType, total: Any, x: Any) -> Any:
        total = total.copy()
        kernels.add_to(total, x)
        return total

    def added_all(kernels: ModuleType, _: ModuleType, totals: Any, xs: Any) -> Any:
        totals = tuple(total.copy() for total in totals)
        kernels.add_all(totals, xs)
        return totals

    cases = []
    for n in (1, 701, *_unless(quick, 1_623_169)):
        x, y = draw(0, n, n)
        z = 30 * x
        z[0] = -200  # e^200 is beyond float32
        cases += [
            Case("silu", (z,)),
            Case("silu_backward", (y, z)),
            Case("add", (x, y)),
            Case("add_to", (x, y), call=added_to),
            Case("add_all", ((x, x[: n // 2]), (y, y[: n // 2])), call=added_all),
            Case("squared_norm", (x,), 1e-12),
            *(Case("dropout", (x, 0.1, *STREAM, first)) for first in FIRST),
        ]
    t = np.array([0, 1, 7, 500, 999, 3999])
    return cases + [
        Case("timestep_features", (t, C, 0.0, first, "float32"))
        for C in (2, 33, 128)
        for first in (False, True)
    ]


def _diffusion() -> list[Case]:
    cases = []
    coefficients = (1.2, -0.6, 0.1, 0.9, 0.2, 0.3)
    for N, P in ((1, 1), (3, 67), (4, 784)):
        x, output, noise, a, b = draw(0, *[(N, P)] * 3, N, N)
        cases += [
            Case("q_sample", (x, noise, a, b)),
            Case("mean_squared_errors", (x, noise), SUMS),
            Case("mean_squared_errors_backward", (a, x, noise)),
            Case("sampler_step", (x, output, noise, coefficients, True)),
            Case("sampler_step", (x, output, None, (*coefficients[:5], 0.0), False)),
        ]
        for drawn in ((*STREAM, first) for first in FIRST):
            cases += [
                Case("q_sample_normal", (x, a, b, *drawn), NORMAL),
                Case("sampler_step_normal", (x, output, coefficients, True, *drawn), NORMAL),
            ]
    x = draw(1, (3, 67))[0]
    return [*cases, Case("replayed", (x,), NORMAL, lambda kernels, _, x: four_calls(kernels, x))]


def four_calls(kernels: ModuleType, x: Any, replay: bool = True) -> tuple[Any, ...]:
    """Return the results of four calls of a small model; each call takes the previous result."""
    xp, N = array_module(x), len(x)

    def model(x: Any, t: Any) -> Any:
        features = kernels.timestep_features(t, 2, 0.0, True, str(x.dtype)).reshape(2 * N)
        return kernels.q_sample(x, kernels.silu(x), features[:N], features[N:])

    call = kernels.replayed(model) if replay else model
    results = []
    for t in (9, 7, 2, 0):
        x = call(x, xp.full(N, t, "int64"))
        results.append(x)
    return tuple(results)


def _lookups() -> list[Case]:
    table, t = np.linspace(0, 1, 50) ** 2, np.array([49, 0, 7, 7])

    def taken(kernels: ModuleType, xp: ModuleType, t: Any = t) -> Any:
        return kernels.take(xp, table, t, "float32")  # the table stays on the host

    weight, gy = draw(0, (5, 33), (4, 33))
    index = np.array([4, 0, 2, 4])
    return [
        Case("take", (), 0.0, taken),
        Case("take", (t,), 0.0, taken),
        Case("take_rows", (weight, index), 0.0),
        Case("take_rows_backward", (gy, index, 5)),
    ]


def _optimiser() -> list[Case]:
    def set_to_zero(kernels: ModuleType, _: ModuleType, x: Any) -> Any:
        x = x.copy()
        kernels.set_to_zero(x)
        return x

    def adam(kernels: ModuleType, _: ModuleType, *arguments: Any) -> Any:
        param, grad, m, v, average, *numbers = arguments
        changed = [a.copy() for a in (param, m, v, average)]
        kernels.adam(changed[0], grad, *changed[1:], *numbers)
        return changed

    def ema(kernels: ModuleType, _: ModuleType, average: Any, *arguments: Any) -> Any:
        average = average.copy()
        kernels.ema(average, *arguments)
        return average

    layout = np.array([(1, 70, 66), (4625, 17, 130), (6841, 1, 5)])  # on the host

    def muon(kernels: ModuleType, _: ModuleType, *arguments: Any) -> Any:
        param, grad, momentum, average, *numbers = arguments
        changed = [a.copy() for a in (param, momentum, average)]
        kernels.muon(changed[0], grad, *changed[1:], layout, *numbers)
        return changed

    cases = [
        Case("muon", (*draw(0, *[6850] * 4), 0.9, 0.95, 0.1, scale, 0.9), MUON, muon)
        for scale in (0.7, np.array(0.7, np.float32))
    ]
    for n, step in ((1, 1), (701, 3), (5000, 1000)):
        param, grad, m, v, average = draw(0, n, n, n, n, n)
        arrays = (param, grad, m, np.abs(v), average)
        numbers = (step, 1e-3, 0.9, 0.99, 1e-8, 0.02)
        cases += [
            Case("adam", (*arrays, *numbers, 0.7, 0.95), SUMS, adam),
            Case("adam", (*arrays, *numbers, np.array(0.7, np.float32), 0.95), SUMS, adam),
            Case("ema", (average, param, 0.9), SUMS, ema),
            Case("set_to_zero", (param,), 0.0, set_to_zero),
        ]
    return cases + [Case("clip_scale", (np.array(s), 1.5)) for s in (0.0, 1e-3, 4.0)]


def _random() -> list[Case]:
    counter = np.arange(4 * 33, dtype=np.uint32).reshape(33, 4) * np.uint32(0x9E3779B9)
    cases = [Case("philox4x32", (counter, STREAM[:2]), 0.0)]
    tolerances = {"random_bits": 0.0, "random_uniform": 0.0, "random_normal": NORMAL}
    for name, tolerance in tolerances.items():

        def numbers(kernels: ModuleType, xp: ModuleType, *stream: int, name: str = name) -> Any:
            return getattr(kernels, name)(xp, *stream)

        cases += [
            Case(name, (n, *STREAM, first), tolerance, numbers)
            for n in (1, 281, 19_999)
            for first in (0, 3, 4 * ((1 << 32) - 1))
        ]
    return cases

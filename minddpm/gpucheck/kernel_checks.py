"""The checks of every function and of every rung of the convolution."""

from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minddpm import backend
from minddpm.gpucheck.arrays import largest_error, mapped
from minddpm.gpucheck.cases import Case, every_case
from minddpm.gpucheck.checks import Check, Row, row
from minddpm.gpucheck.convolutions import (
    WINOGRAD,
    Convolution,
    convolutions,
    draw,
    narrowed,
    rounded,
    sums_tolerance,
)
from minddpm.kernels import reference
from minddpm.kernels.cuda import fused, ladder, shortcut, winograd
from minddpm.kernels.cuda.ladder import FUSED_BACKWARD, Rung, Sizes, available_rungs
from minddpm.kernels.shapes import SAME

WINOGRADS = {"conv2d, rung 5 Winograd": winograd, "conv2d, rung 5 Winograd, fused": fused}


class Comparison(NamedTuple):
    """Results of kernels, and those of the reference in float64.

    tolerance: of the difference, relative to the largest entry.
    """

    tolerance: float
    ours: Callable[[], Any]
    wanted: Callable[[], Any]

    def error(self) -> float:
        return largest_error(self.ours(), self.wanted())


def kernel_checks(quick: bool) -> list[Check]:
    """Return the checks of every function and every rung of the convolution; quick: small sizes."""
    every = comparisons(quick)
    return [Check(name, partial(_check, name, every[name])) for name in every]


def run_all(quick: bool) -> None:
    """Run all kernels that kernel_checks runs, those first that take longest to compile: rungs."""
    for some in reversed(comparisons(quick).values()):
        for comparison in some:
            comparison.ours()


def comparisons(quick: bool) -> dict[str, list[Comparison]]:
    """Return the comparisons of each check."""
    found: dict[str, list[Comparison]] = {}
    for case in sorted(every_case(quick), key=lambda case: case.function):
        found.setdefault(case.function, []).append(
            Comparison(case.tolerance, partial(_result, case), partial(_expected, case))
        )
    sizes = convolutions(quick)
    for name, rung in available_rungs().items():
        found[f"conv2d, rung {name}"] = [
            Comparison(
                sums_tolerance(rung, one.depth),
                partial(_rung_results, rung, one, up, dtype),
                partial(_rung_expected, rung.stored, one, up, rung.file in FUSED_BACKWARD),
            )
            for one in sizes
            for up in ((0, 1) if one.stride == 1 else (0,))  # no layer does both: less to compile
            for dtype in dict.fromkeys(("float32", rung.stored))
        ]
    for name, module in WINOGRADS.items():
        found[name] = [
            Comparison(
                WINOGRAD, partial(_winograd_results, module, c), partial(_winograd_expected, c)
            )
            for c in sizes
            if (c.KH, c.KW, c.stride) == (3, 3, 1)
            and (module is winograd or c.C % 4 == c.C_out % 4 == 0)
        ]
    return found


def _check(name: str, some: list[Comparison]) -> Row:
    return _worst([row(name, comparison.tolerance, comparison.error) for comparison in some])


def _worst(rows: list[Row]) -> Row:
    """Return the first row that failed, else the one closest to its tolerance."""
    wrong = [one for one in rows if not one.ok]
    return wrong[0] if wrong else max(rows, key=lambda one: one.error / (one.tolerance or 1.0))


def _double(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) if x.dtype == np.float32 else x


def _result(case: Case) -> Any:
    arguments = mapped(backend.xp.asarray, case.arguments)
    return case.result(backend.kernels, backend.xp, arguments)


def _expected(case: Case) -> Any:
    return case.result(reference, np, mapped(_double, case.arguments))


# --- a rung's forward and backward, with all their options ---------------------------------------


def _rung_arguments(stored: str, c: Convolution, up: int) -> tuple[Sizes, tuple[Any, ...]]:
    """Return the sizes, and x in two parts, w, b, shift, extra and gy, of which no bit is rounded.

    up: whether x is upsampled.
    """
    x, w, b = (rounded(array, stored) for array in c.arrays()[:3])
    parts = np.split(x, [(c.C + 1) // 2], axis=3)
    xs = tuple(np.ascontiguousarray(part) for part in parts if part.size)
    s = Sizes.of(xs, w.shape, c.stride, c.padding, up)
    shift, extra, gy = draw(1, (s.N, s.C_out), *[(s.N, s.OH, s.OW, s.C_out)] * 2)
    return s, (xs, w, b, shift, extra, rounded(gy, stored))


def _rung_results(rung: Rung, c: Convolution, up: int, dtype: str) -> list[Any]:
    """Return y, the gradients by separate kernels and, if the rung has it, by one launch.

    dtype: the type of x. The last rungs also add a linear layer of x to a 3x3 convolution.
    """
    s, arguments = _rung_arguments(rung.stored, c, up)
    stored = tuple(narrowed(part, dtype) for part in arguments[0])
    stored, (xs, w, b, shift, extra, gy) = mapped(backend.xp.asarray, (stored, arguments))
    y = backend.xp.empty(gy.shape, "float32")
    ladder.forward(s, stored, w, b, y, up=up, shift=shift, extra=extra, rung=rung)
    results = [y, ladder.separate_gradients(s, gy, stored, w, rung, up)]
    if rung.file not in FUSED_BACKWARD:
        return results
    results.append(ladder.backward(s, gy, stored, w, up=up, rung=rung))
    if _has_shortcut(c, up):
        h, w_2 = backend.xp.concatenate(stored, axis=3), w[1, 1]
        results.append(shortcut.convolved(h, w, b, shift, xs, w_2, b, rung))
        results.append(shortcut.gradients(gy, h, w, xs, w_2, (None,) * len(xs), rung))
    return results


def _has_shortcut(c: Convolution, up: int) -> bool:
    return (c.KH, c.KW, c.stride, c.padding, up) == (3, 3, 1, SAME, 0)


@cache
def _rung_expected(stored: str, c: Convolution, up: int, fused: bool) -> tuple[Any, ...]:
    """Return the same by the reference, once for all rungs; fused: of a rung that has it."""
    _, arguments = _rung_arguments(stored, c, up)
    xs, w, b, shift, extra, gy = mapped(_double, arguments)
    x = np.concatenate(xs, axis=3)
    image = reference.upsample_nearest(x) if up else x
    y = reference.conv2d(image, w, b, c.stride, c.padding) + shift[:, None, None] + extra
    gx, gw, gb = reference.conv2d_backward(gy, image, w, c.stride, c.padding)
    gx = reference.upsample_nearest_backward(gx) if up else gx
    places = np.cumsum([part.shape[3] for part in xs])[:-1]
    gxs, gshift = np.split(gx, places, axis=3), gy.sum(axis=(1, 2))
    results = [y, (gxs, gw), *[(gxs, gw, gshift, gb)] * fused]
    if fused and _has_shortcut(c, up):
        w_2 = w[1, 1]
        gxs_2, gw_2 = np.split(gy @ w_2.T, places, axis=3), np.einsum("nhwc,nhwk->ck", x, gy)
        results += [y - extra + x @ w_2 + b, ((gx, gw, gshift, gb), (gxs_2, gw_2))]
    return tuple(results)


def _winograd_results(module: ModuleType, c: Convolution) -> tuple[Any, ...]:
    x, w, b, gy, shift, extra = mapped(backend.xp.asarray, c.arrays())
    s, y = Sizes.of((x,), w.shape, 1, c.padding), backend.xp.empty(gy.shape, "float32")
    module.forward(s, (x,), w, b, y, shift=shift, extra=extra)
    return y, module.backward(s, gy, (x,), w)


@cache
def _winograd_expected(c: Convolution) -> tuple[Any, ...]:
    x, w, b, gy, shift, extra = mapped(_double, tuple(c.arrays()))
    y = reference.conv2d(x, w, b, 1, c.padding) + shift[:, None, None] + extra
    gx, gw, gb = reference.conv2d_backward(gy, x, w, 1, c.padding)
    return y, ((gx,), gw, gy.sum(axis=(1, 2)), gb)

"""A check of any backward against finite differences."""

from collections.abc import Callable, Sequence
from typing import Any

from minddpm import backend, random
from minddpm.autodiff.graph import Tensor


class GradientError(AssertionError):
    """A backward does not agree with the finite difference of its forward."""


def gradcheck(
    function: Callable[..., Tensor],
    inputs: Sequence[Any],
    *,
    seed: int = 0,
    step: float = 1e-5,
    tolerance: float = 1e-6,
) -> float:
    """Compare backward() with central differences for each input; return the largest error.

    function: maps Tensors to a Tensor of any shape. inputs: arrays, which are cast to float64, or
    float64 tensors (such as a float64 model's Parameters), which are perturbed in place.
    For a random direction d of one input and a random covector c of the output, it compares

        <c, (f(x + h d) - f(x - h d)) / 2h>  with  <gx, d>,  where gx = backward of c

    A constant c would miss errors: the outputs of softmax and normalisation sum to a constant, so
    their gradient for c = (1, 1, ...) is 0 even if the backward is wrong. The error is relative to
    |gx| |d| / sqrt(size), the typical size of <gx, d>. An error below 2^-52 |c y| / h counts as 0:
    rounding of f causes such errors even if the gradient is exactly 0.

    Raises GradientError if an error exceeds the tolerance or is NaN.
    """
    xp = backend.xp
    tensors = [x if isinstance(x, Tensor) else Tensor(xp.asarray(x, "float64")) for x in inputs]
    for i, x in enumerate(tensors):
        if x.dtype != "float64":
            raise ValueError(f"gradcheck needs float64, but input {i} has {x.dtype}: convert it")
        x.requires_grad, x.grad = True, None

    y = function(*tensors)
    c = xp.asarray(random.normal(y.shape, seed, random.CHECK), "float64")
    y.backward(c)
    rounding = 2.0**-52 * float(abs(c * y.data).sum()) / step
    worst = 0.0
    for i, x in enumerate(tensors):
        d = xp.asarray(random.normal(x.shape, seed, random.CHECK, 1 + i), "float64")
        centre = x.data.copy()
        x.data[...] = centre + step * d
        above = function(*tensors).data.copy()  # copies: a reshape's result is a view of x.data
        x.data[...] = centre - step * d
        below = function(*tensors).data.copy()
        x.data[...] = centre
        numeric = float((c * (above - below)).sum()) / (2 * step)
        gx = xp.zeros_like(centre) if x.grad is None else x.grad
        analytic = float((gx * d).sum())
        typical = float(xp.sqrt((gx * gx).sum() * (d * d).sum() / d.size))
        error = abs(numeric - analytic)
        error = 0.0 if error <= rounding else error / max(typical, abs(numeric))
        if not error <= tolerance:  # also true for NaN
            raise GradientError(
                f"input {i} of shape {x.shape}: backward gives {analytic:.12g} along a random "
                f"direction, finite differences {numeric:.12g} (relative error {error:.1e})"
            )
        worst = max(worst, error)
    return worst

"""The checks of exercises 9 to 16: every backward against finite differences of its forward.

As in minddpm/autodiff/gradcheck.py, in float64 and for a random gradient gy of the result: with a
constant one, softmax and normalisation would pass with a wrong backward. Here each entry is a
direction of its own, so that a message can name the entry that differs most.
"""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from checker.compare import Mistakes, call, compare, results
from minddpm.kernels import reference

STEP = 1e-5  # of the finite differences
PADDING = ((1, 1), (1, 1))


def draw(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Return arrays of standard normal numbers, the same in every run."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


def finite_differences(forward: Callable, inputs: Sequence[np.ndarray], i: int, gy: np.ndarray):
    """Return the gradient of sum(gy forward(*inputs)) with respect to input i, entry by entry."""
    gradient = np.zeros(inputs[i].shape)
    for at in np.ndindex(inputs[i].shape):
        sides = []
        for h in (STEP, -STEP):
            moved = [x.copy() for x in inputs]
            moved[i][at] += h
            sides.append((gy * forward(*moved)).sum())
        gradient[at] = (sides[0] - sides[1]) / (2 * STEP)
    return gradient


def check(
    got: Sequence[Any],
    gy: np.ndarray,
    forward: Callable,
    inputs: Mapping[str, np.ndarray],
    mistakes: Mapping[str, Mistakes],
) -> None:
    """Raise NotPassed unless got are the gradients of the inputs.

    mistakes: for each input by its name, the gradients that typical mistakes give.
    """
    for i, (name, gradient) in enumerate(zip(inputs, got, strict=True)):
        numeric = finite_differences(forward, list(inputs.values()), i, gy)
        compare(f"g{name}", gradient, numeric, mistakes.get(name), tolerance=1e-6)


def add(student: ModuleType) -> None:
    shapes = ((3, 3), (3,)), ((2, 3), (2, 1)), ((2, 1, 4), (3, 1)), ((2, 3), (2, 3)), ((4,), (1, 1))
    for of_a, of_b in shapes:
        a, b, gy = draw(of_a, of_b, np.broadcast_shapes(of_a, of_b))
        last = (
            "This is the sum over the wrong axis: b was repeated along the first one."
            if of_b == (3,)
            else "An axis of length 1 is lost: keepdims=True keeps it."
        )
        mistakes = {
            "This is gy, unsummed: where a number was repeated, its gradients have to be summed.": (
                gy
            ),
            "This is the sum over all axes: sum only over those that were repeated.": gy.sum(),
            "This is the mean of the repeated ones: their gradients are summed.": (
                gy.mean(axis=0),
                gy.mean(axis=-1, keepdims=True),
            ),
            last: gy.sum(axis=-1),
        }
        got = results(student.add_backward, ("ga", "gb"), gy, a, b)
        check(got, gy, np.add, {"a": a, "b": b}, {"a": mistakes, "b": mistakes})


def matmul(student: ModuleType) -> None:
    # Square matrices first: with them a forgotten transpose is no error of shape.
    for N, C, K in ((3, 3, 3), (2, 3, 4)):
        x, w, gy = draw((N, C), (C, K), (N, K))
        got = results(student.matmul_backward, ("gx", "gw"), gy, x, w)
        mistakes: dict[str, Mistakes] = {}
        if N == C == K:
            mistakes["x"] = {
                "w is not transposed: gx = gy w^T.": gy @ w,
                "The factors are in the wrong order: gx = gy w^T.": (w.T @ gy, w @ gy),
            }
            mistakes["w"] = {
                "x is not transposed: gw = x^T gy.": x @ gy,
                "The factors are in the wrong order: gw = x^T gy.": (gy @ x.T, gy @ x, gy.T @ x),
            }
        check(got, gy, np.matmul, {"x": x, "w": w}, mistakes)


def silu(student: ModuleType) -> None:
    x, gy = draw((3, 4), (3, 4))
    s = 1 / (1 + np.exp(-x))
    got = call(student.silu_backward, gy, x)
    check([got], gy, reference.silu, {"x": x}, {"x": {
        "The second term of the product rule is missing: x s'.": gy * s,
        "The first term of the product rule is missing: s.": gy * x * s * (1 - s),
        "The sign of the second term is wrong: s' = s (1 - s).": gy * (s - x * s * (1 - s)),
        "The second term has no factor x.": gy * (s + s * (1 - s)),
        "This is the slope alone: multiply it by gy.": s + x * s * (1 - s),
        "This is the derivative of the sigmoid, not of x times the sigmoid.": gy * s * (1 - s),
    }})  # fmt: skip
    got = call(student.silu_backward, np.ones(2), np.array([-1000.0, 1000.0]))
    overflow = "exp() has overflowed: compute s(x) as (1 + tanh(x/2)) / 2."
    compare("For x = [-1000, 1000] and gy = [1, 1]: gx", got, np.array([0.0, 1.0]), {
        overflow: ([0, np.nan], [np.nan, 1], [np.nan, np.nan]),
    })  # fmt: skip


def softmax(student: ModuleType) -> None:
    def forward(x: np.ndarray) -> np.ndarray:
        e = np.exp(x)
        return e / e.sum(axis=-1, keepdims=True)

    for N, K in ((3, 3), (2, 5)):  # square first: a sum without keepdims then fits, too
        x, gy = draw((N, K), (N, K))
        y = forward(x)
        mistakes = {
            "These are the diagonal terms alone: every score moves all probabilities of its row.": (
                gy * y * (1 - y)
            ),
            "The sum is over the wrong axis: softmax is over the last one.": y
            * (gy - (gy * y).sum(axis=0, keepdims=True)),
            "The sum is over both axes: there is one sum for each row.": y * (gy - (gy * y).sum()),
            "The sum over j misses its y: it is a sum of gy y.": y
            * (gy - gy.sum(axis=-1, keepdims=True)),
            "The second term is missing: - y (sum of gy y).": gy * y,
            "The second term has the wrong sign.": y * (gy + (gy * y).sum(axis=-1, keepdims=True)),
        }
        if N == K:
            mistakes["The sum of shape [N] met the columns: keepdims=True makes it [N, 1]."] = y * (
                gy - (gy * y).sum(axis=-1)
            )
        check([call(student.softmax_backward, gy, y)], gy, forward, {"x": x}, {"x": mistakes})


def group_norm(student: ModuleType) -> None:
    groups, eps = 2, 0.1  # a large eps, so that a forgotten one is seen
    shape = N, _, _, C = 2, 2, 3, 4
    x, weight, bias, gy = draw(shape, (C,), (C,), shape)
    _, mean, rstd = reference.group_norm(x, weight, bias, groups, eps)

    def spread(groups: np.ndarray) -> np.ndarray:
        return groups.repeat(C // 2, axis=1).reshape(N, 1, 1, C)

    def average(values: np.ndarray) -> np.ndarray:
        grouped = values.reshape(*shape[:3], groups, C // groups)
        return spread(grouped.mean(axis=(1, 2, 4)))

    r, n, gn = spread(rstd), (x - spread(mean)) * spread(rstd), gy * weight
    r0 = spread(1 / np.sqrt(1 / rstd**2 - eps))  # without eps
    n0 = n / r * r0

    def gx(average: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return r * (gn - average(gn) - n * average(gn * n))

    mistakes = {
        "x": {
            "mean and rstd are treated as constants: both depend on x.": r * gn,
            "The third term is missing: - n avg(gn n), because rstd depends on x.": r
            * (gn - average(gn)),
            "The second term is missing: - avg(gn), because the mean depends on x.": r
            * (gn - n * average(gn * n)),
            "The weight is missing: gn = gy weight.": r * (gy - average(gy) - n * average(gy * n)),
            "The averages are over each channel: take them over all channels of a group.": (
                gx(lambda values: values.mean(axis=(1, 2), keepdims=True))
            ),
            "The averages are over more than one group: avg has one value for each group of each "
            "image.": (
                gx(np.mean),
                gx(lambda values: values.mean(axis=(1, 2, 3), keepdims=True)),
                gx(lambda values: average(values).mean(axis=0)),
            ),
            "The factor rstd is missing.": gn - average(gn) - n * average(gn * n),
            "eps is missing: rstd = 1 / sqrt(variance + eps).": r0
            * (gn - average(gn) - n0 * average(gn * n0)),
        },
        "weight": {
            "This is gy times x: y is n weight + bias, so multiply gy by the normalised n.": (
                (gy * x).sum(axis=(0, 1, 2))
            ),
            "This is gbias: the order is gx, gweight, gbias.": gy.sum(axis=(0, 1, 2)),
        },
        "bias": {
            "This is a mean: the gradients of all pixels are summed.": gy.mean(axis=(0, 1, 2))
        },
    }
    got = results(
        student.group_norm_backward, ("gx", "gweight", "gbias"), gy, x, weight, groups, eps
    )
    check(got, gy, lambda *inputs: reference.group_norm(*inputs, groups, eps)[0],
          {"x": x, "weight": weight, "bias": bias}, mistakes)  # fmt: skip


def conv2d(student: ModuleType) -> None:
    def forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
        return reference.conv2d(x, w, b, 1, PADDING)

    for H, W, C, K in ((3, 3, 2, 2), (2, 4, 3, 2)):
        x, w, b, gy = draw((2, H, W, C), (3, 3, C, K), (K,), (2, H, W, K))
        gx, gw, gb = reference.conv2d_backward(gy, x, w, 1, PADDING)
        p = np.pad(x, ((0, 0), *PADDING, (0, 0)))
        gp, _, _ = reference.conv2d_backward(gy, p, w, 1, ((0, 0), (0, 0)))
        turned = w[::-1, ::-1]
        replaced, mixed = np.zeros_like(p), np.zeros_like(w)
        for kh, kw in np.ndindex(3, 3):
            window = np.s_[:, kh : kh + H, kw : kw + W]
            replaced[window] = gy @ w[kh, kw].T
            mixed[kh, kw] = p[window].reshape(C, -1) @ gy.reshape(-1, K)
        mistakes = {
            "x": {
                "The window is not turned: what kh, kw takes from p[i + kh, j + kw], it gives back "
                "there.": forward(gy, w.swapaxes(2, 3)),
                "w[kh, kw] is not transposed: the window gets gy w[kh, kw]^T.": (
                    forward(gy, turned) if C == K else gx
                ),
                "The windows overlap, and each replaces what was there: add to gp, by +=.": (
                    replaced[:, 1:-1, 1:-1]
                ),
                "The border is not cut off: gx is gp[:, 1:-1, 1:-1].": gp,
                "The border is cut off on one side only: gx is gp[:, 1:-1, 1:-1].": (
                    gp[:, :H, :W],
                    gp[:, 2:, 2:],
                ),
            },
            "w": {
                "w is turned by 180 degrees: gw[kh, kw] belongs to the window at kh, kw.": gw[
                    ::-1, ::-1
                ],
                "The transpose is missing: gw[kh, kw] = window^T gy.": gw.swapaxes(2, 3),
                "Reshaped to [C, N H W] the window mixes pixels and channels: reshape it to "
                "[N H W, C], then transpose.": mixed,
                "This is a mean over the pixels: their gradients are summed.": gw / gy[..., 0].size,
            },
            "b": {
                "This is a mean: b is added to every pixel, so the gradients are summed.": (
                    gb / gy[..., 0].size
                ),
            },
        }
        got = results(student.conv2d_backward, ("gx", "gw", "gb"), gy, x, w)
        check(got, gy, forward, {"x": x, "w": w, "b": b}, mistakes)


def attention(student: ModuleType) -> None:
    for N, L, D in ((2, 3, 3), (1, 4, 2)):
        q, k, v, gy = draw(*[(N, L, D)] * 4)
        root = np.sqrt(D)
        gq, gk, _ = reference.attention_backward(gy, q, k, v, (), heads=1)

        def weights(s: np.ndarray) -> np.ndarray:
            return np.exp(s) / np.exp(s).sum(axis=-1, keepdims=True)

        s = q @ k.swapaxes(1, 2)
        p, unscaled, gp = weights(s / root), weights(s), gy @ v.swapaxes(1, 2)
        gs = p * (gp - (gp * p).sum(axis=-1, keepdims=True)) / root
        no_sum, diagonal = p * gp / root, p * gp * (1 - p) / root
        columns = p * (gp - (gp * p).sum(axis=1, keepdims=True)) / root
        scale = "The factor 1/sqrt(D) is missing: s has it, so gq and gk have it, too."
        twice = "The factor 1/sqrt(D) is there twice."
        softmax = "The gradient of softmax is missing: gs is not gp (exercise 12)."
        part = "This is part of the gradient of softmax: gs = p (gp - sum of gp p)."
        axis = "The sum in the gradient of softmax is over the wrong axis: take the last one."
        mistakes = {
            "q": {scale: gq * root, twice: gq / root, softmax: gp @ k / root,
                  part: (no_sum @ k, diagonal @ k), axis: columns @ k},
            "k": {scale: gk * root, twice: gk / root,
                  "gs is not transposed: gk = gs^T q.": gs @ q},
            "v": {"p is not transposed: gv = p^T gy.": p @ gy,
                  "p is computed without 1/sqrt(D).": unscaled.swapaxes(1, 2) @ gy},
        }  # fmt: skip
        got = results(student.attention_backward, ("gq", "gk", "gv"), gy, q, k, v)
        check(got, gy, lambda *inputs: reference.attention(*inputs, heads=1)[0],
              {"q": q, "k": k, "v": v}, mistakes)  # fmt: skip


def adam(student: ModuleType) -> None:
    lr, beta1, beta2, eps = 0.1, 0.8, 0.9, 0.05  # a large eps, so that its place is seen
    options = lr, beta1, beta2, eps
    param, average, root = draw((5,), (5,), (5,))
    for step, m, v in ((3, average, root**2), (1, 0 * average, 0 * root)):
        grad = np.sin(3 * param + step)
        expected = [param.copy(), m.copy(), v.copy()]
        reference.adam(expected[0], grad, *expected[1:], None, step, *options, 0.0, 1.0, 1.0)
        m1, v1 = expected[1:]
        a, b = 1 - beta1**step, 1 - beta2**step
        update = m1 / a / (np.sqrt(v1 / b) + eps)
        early = max(step - 1, 1)
        a0, b0 = 1 - beta1**early, 1 - beta2**early

        got = results(student.adam, ("param", "m", "v"), param, grad, m, v, step, *options)
        compare(f"Step {step}: m", got[1], m1, {
            "m and v are swapped: return (param, m, v).": v1,
            "This is m_hat: return m, from which the next step continues.": m1 / a,
            "beta1 and 1 - beta1 are swapped.": (1 - beta1) * m + beta1 * grad,
            "The gradient has no factor 1 - beta1.": beta1 * m + grad,
        })  # fmt: skip
        compare(f"Step {step}: v", got[2], v1, {
            "v averages the squares of the gradient.": beta2 * v + (1 - beta2) * grad,
            "v averages the squares of the gradient, not those of m.": (
                beta2 * v + (1 - beta2) * m1**2
            ),
            "This is v_hat: return v, from which the next step continues.": v1 / b,
            "beta2 and 1 - beta2 are swapped.": (1 - beta2) * v + beta2 * grad**2,
            "v uses beta1: it has its own beta2.": beta1 * v + (1 - beta1) * grad**2,
        })  # fmt: skip
        compare(f"Step {step}: param", got[0], expected[0], {
            "The correction of m and v is missing: divide by 1 - beta^step.": (
                param - lr * m1 / (np.sqrt(v1) + eps)
            ),
            "eps is inside the square root: sqrt(v_hat) + eps.": (
                param - lr * m1 / a / np.sqrt(v1 / b + eps)
            ),
            "The sign is wrong: a step goes against the gradient.": param + lr * update,
            "The square root of v_hat is missing.": param - lr * m1 / a / (v1 / b + eps),
            "This takes the gradient instead of m_hat.": (
                param - lr * grad / (np.sqrt(v1 / b) + eps)
            ),
            "The factor lr is missing.": param - update,
            "The correction uses step - 1, which is 0 at first: step counts from 1.": (
                param - lr * m1 / a0 / (np.sqrt(v1 / b0) + eps)
            ),
        })  # fmt: skip

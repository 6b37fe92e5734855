"""PNDM: Liu et al. 2022, "Pseudo numerical methods for diffusion models on manifolds".

DDIM's step leads from any x_t to any x_s along one output of the model (formula 9). The
methods for ordinary differential equations replace this output by a mean of several:

    linear multistep  D = (55 e_t - 59 e_{t+1} + 37 e_{t+2} - 9 e_{t+3}) / 24
    Runge-Kutta       D = (e_1 + 2 e_2 + 2 e_3 + e_4) / 6, at t, half-way, half-way, t-1

where e_{t+1} is the output of the step before. The weights are those for steps of equal length.
"""

from collections.abc import Iterator
from math import sqrt

import numpy as np

from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.diffusion.losses import GaussianDiffusion
from minddpm.diffusion.reverse import eps_coefficients
from minddpm.diffusion.sampling.steps import (
    Spacing,
    Step,
    initial_noise,
    predict,
    reverse_steps,
    update,
)

# Adams and Bashforth's weights of the outputs of 1 .. 4 steps, the newest first.
MULTISTEP = (
    (1,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def pndm(
    diffusion: GaussianDiffusion, model: Model, shape: tuple[int, ...], steps: int | None = None,
    *, runge_kutta: bool = False, seed: int = 0, first: int = 0, x_T: Array | None = None,
    spacing: Spacing = "leading",
) -> Iterator[Step]:  # fmt: skip
    """Sample by linear multistep steps; the same x_T always gives the same image.

    runge_kutta: whether the first three steps, before which there are too few outputs, are
    Runge-Kutta's: each runs the model four times. Otherwise the first step is Heun's (two runs),
    and the next two use fewer outputs (PLMS, as Stable Diffusion has it).
    Other arguments: sampling/steps.py.
    """
    d, x = diffusion, initial_noise(shape, seed, first, x_T)
    levels = list(reverse_steps(d, steps, spacing))
    following = [*(t for _, t, *_ in levels[1:]), None]
    outputs: list[Array] = []
    for i, t, ac, ac_prev in levels:
        e, _ = predict(d, model, x, t)
        outputs, to = [e, *outputs[:3]], following[i]
        if runge_kutta and i < 3 and to is not None:
            D = _runge_kutta(d, model, x, e, (t, ac), (to, ac_prev))
        elif i == 0 and to is not None:
            there, _ = _transfer(d, x, e, ac, ac_prev)
            D = (e + predict(d, model, there, to)[0]) / 2
        else:
            weights = MULTISTEP[len(outputs) - 1]
            D = sum(k * e for k, e in zip(weights, outputs, strict=True))
        x, pred_x0 = _transfer(d, x, D, ac, ac_prev)
        yield Step(x, pred_x0, int(t))


def _runge_kutta(
    d: GaussianDiffusion, model: Model, x: Array, e_1: Array, here: tuple[float, float],
    there: tuple[float, float],
) -> Array:  # fmt: skip
    """Return D of a step between two pairs (t, ac), from e_1, the output for x."""
    (t, ac), (to, ac_to) = here, there
    half = (t - to) // 2

    def output(e: Array, ac_at: float, at: float) -> Array:
        """Follow e to alphas_cumprod ac_at, and run the model there with timestep `at`."""
        return predict(d, model, _transfer(d, x, e, ac, ac_at)[0], at)[0]

    e_2 = output(e_1, _alphas_cumprod(d, t - half), to + half)
    e_3 = output(e_2, _alphas_cumprod(d, to + half), to + half)
    e_4 = output(e_3, ac_to, to)
    return (e_1 + 2 * e_2 + 2 * e_3 + e_4) / 6


def _transfer(
    d: GaussianDiffusion, x: Array, output: Array, ac: float, ac_to: float
) -> tuple[Array, Array]:
    """Return DDIM's x where alphas_cumprod is ac_to, and pred_x0.

    x = sqrt(ac_to) pred_x0 + sqrt(1 - ac_to) eps    (formula 9 in another form)
    """
    kx, ko = (sqrt(1 - ac_to) * float(k) for k in eps_coefficients(d.prediction, ac))
    return update(d, ac, x, output, k0=sqrt(ac_to), kx=kx, ko=ko)


def _alphas_cumprod(d: GaussianDiffusion, t: float) -> float:
    """Return alphas_cumprod at the model's timestep t."""
    return float(d.alphas_cumprod[np.searchsorted(d.timestep_map, t)])

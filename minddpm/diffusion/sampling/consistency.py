"""Multistep consistency sampling: Song et al. 2023, "Consistency Models", algorithm 1."""

from collections.abc import Iterator
from math import sqrt

from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.diffusion.losses import GaussianDiffusion
from minddpm.diffusion.sampling.steps import (
    Noise,
    Spacing,
    Step,
    initial_noise,
    predict,
    reverse_steps,
    update,
)
from minddpm.random import SAMPLE, Stream


def consistency(
    diffusion: GaussianDiffusion, model: Model, shape: tuple[int, ...], steps: int | None = None,
    *, seed: int = 0, first: int = 0, x_T: Array | None = None, noise: Noise | None = None,
    spacing: Spacing = "upper",
) -> Iterator[Step]:  # fmt: skip
    """Sample with a model whose pred_x0 is a finished image (training/consistency.py).

    x_{t-1} = sqrt(ac_{t-1}) pred_x0 + sqrt(1 - ac_{t-1}) z

    Each step noises the image anew, to a lower t, and thus lets the model correct it. The last
    step, of ac_{t-1} = 1, returns pred_x0. Arguments: sampling/steps.py.
    """
    d, x = diffusion, initial_noise(shape, seed, first, x_T)
    noise = noise or (lambda i: Stream(seed, SAMPLE, i, first))
    for i, t, ac, ac_prev in reverse_steps(d, steps, spacing):
        prediction, _ = predict(d, model, x, t)
        sigma = sqrt(1 - ac_prev)
        z = noise(i) if sigma > 0 else None
        x, pred_x0 = update(d, ac, x, prediction, k0=sqrt(ac_prev), kx=0.0, sigma=sigma, z=z)
        yield Step(x, pred_x0, int(t))

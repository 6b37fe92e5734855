"""Inpainting: Lugmayr et al. 2022, "RePaint"."""

from collections.abc import Iterator

import numpy as np

from minddpm import backend, random
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.diffusion.losses import GaussianDiffusion
from minddpm.diffusion.sampling.steps import Step, initial_noise, visited_timesteps
from minddpm.errors import InputError


def inpaint(
    diffusion: GaussianDiffusion,
    model: Model,
    x0: Array,
    mask: Array,
    steps: int | None = None,
    *,
    resample: int = 5,
    seed: int = 0,
    spacing: str = "leading",
) -> Iterator[Step]:
    """Complete images of which a part is known, by ancestral sampling (algorithm 1).

    After each step the known part is inserted with the noise of its timestep:
        x_{t-1} = mask q_sample(x0, t-1) + (1 - mask) (a step of p from x_t)
    The sampled part did not depend on the inserted one. So each step is taken `resample` times:
    back to x_t by q_step and down again, until both parts match.

    x0 [N, H, W, C]; mask broadcastable to it, 1 where x0 is known and 0 where it is sampled.
    Raises InputError for a resample below 1, or a mask with other numbers.
    """
    x0, mask = backend.xp.asarray(x0), backend.xp.asarray(mask, dtype="float32")
    if resample < 1:
        raise InputError(f"resample {resample}: choose at least 1, which is once.")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError("the mask must be 1 where the image is known, and 0 elsewhere.")
    d = diffusion.respaced(visited_timesteps(diffusion, steps, spacing))
    x, draws = initial_noise(x0.shape, seed, 0, None), 0

    def noise() -> Array:
        nonlocal draws
        draws += 1
        return random.normal(x0.shape, seed, random.SAMPLE, draws)

    for t in reversed(range(d.T)):
        here, next_t = np.full(len(x0), t), np.full(len(x0), t - 1)
        for again in reversed(range(resample if t > 0 else 1)):
            p = d.p_mean_variance(model, x, here)
            if t == 0:
                x = mask * x0 + (1 - mask) * p.mean
                break
            sampled = p.mean + backend.xp.sqrt(p.variance) * noise()
            x = mask * d.q_sample(x0, next_t, noise()) + (1 - mask) * sampled
            if again:
                x = d.q_step(x, here, noise())
        yield Step(x, p.pred_x0, int(d.timestep_map[t]))

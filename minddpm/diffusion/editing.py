"""What else the walk back can do: fill in what is missing, and go from one picture to another."""

from collections.abc import Iterator

import numpy as np

from minddpm import backend, random
from minddpm.backend import Array
from minddpm.diffusion.gaussian import GaussianDiffusion
from minddpm.diffusion.process import Model
from minddpm.diffusion.walk import Step, shorten, start
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
    """Ancestral sampling of pictures of which a part is known (Lugmayr et al. 2022, RePaint).

    After each step the known part is put in, with the noise that it has there:
        x_{t-1} = mask q_sample(x0, t-1) + (1 - mask) (a step of p from x_t)
    What was just sampled knew nothing of that part. So each step is taken `resample` times: back to
    x_t by q_step, and down again, until both parts fit (algorithm 1).

    x0 [N, H, W, C]; mask broadcastable to it, 1 where x0 is known and 0 where it is to be made.
    Raises InputError for a resample below 1, or a mask with other numbers.
    """
    x0, mask = backend.xp.asarray(x0), backend.xp.asarray(mask, dtype="float32")
    if resample < 1:
        raise InputError(f"resample {resample}: choose at least 1, which is once.")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError("the mask must be 1 where the picture is known, and 0 elsewhere.")
    short = shorten(diffusion, steps, spacing)
    x, draws = start(x0.shape, seed, 0, None), 0

    def noise() -> Array:
        nonlocal draws
        draws += 1
        return random.normal(x0.shape, seed, random.SAMPLE, draws)

    for t in reversed(range(short.T)):
        here, before = np.full(len(x0), t), np.full(len(x0), t - 1)
        for again in reversed(range(resample if t > 0 else 1)):
            p = short.p_mean_variance(model, x, here)
            if t == 0:
                x = mask * x0 + (1 - mask) * p.mean
                break
            made = p.mean + backend.xp.sqrt(p.variance) * noise()
            x = mask * short.q_sample(x0, before, noise()) + (1 - mask) * made
            if again:
                x = short.q_step(x, here, noise())
        yield Step(x, p.pred_x0, int(short.timestep_map[t]))


def slerp(a: Array, b: Array, share: float) -> Array:
    """From a (share 0) to b (share 1) along the sphere on which noise lies, image by image.

    slerp = sin((1 - share) angle) / sin(angle) a + sin(share angle) / sin(angle) b
    In many dimensions all normal vectors have nearly the same length; the straight way between two
    would pass through shorter ones, which are no noise that the model has seen (Shoemake 1985).
    """
    xp = backend.xp
    axes = tuple(range(1, a.ndim))
    lengths = xp.sqrt((a * a).sum(axis=axes, keepdims=True) * (b * b).sum(axis=axes, keepdims=True))
    angle = xp.arccos(((a * b).sum(axis=axes, keepdims=True) / lengths).clip(-1, 1))
    # sin(angle) is 0 where both are one direction: there any share is the same.
    angle = xp.maximum(angle, 1e-6)
    return (xp.sin((1 - share) * angle) * a + xp.sin(share * angle) * b) / xp.sin(angle)

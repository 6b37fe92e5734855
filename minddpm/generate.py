"""Any number of pictures from a model, in batches, the same ones whatever the batch size."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from minddpm import backend, random
from minddpm.autodiff import no_grad
from minddpm.diffusion import GaussianDiffusion, samplers
from minddpm.diffusion.samplers import Step
from minddpm.errors import InputError
from minddpm.models import UNet2D

SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": samplers.ddpm,
    "ddim": samplers.ddim,
}


def generate(
    unet: UNet2D,
    diffusion: GaussianDiffusion,
    count: int,
    sampler: str = "ddpm",
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Callable[[int, Step], None] | None = None,
) -> np.ndarray:
    """`count` pictures, float32 [count, H, W, C] on the host, with a progress bar.

    sampler: a key of SAMPLERS; steps: None for all T. Picture i depends on (seed, i) alone: its
    noise is drawn from its own part of the stream. The pictures are made with the weights that the
    model has: those of a saved model are the averages (EMA). watch(number of pictures before, step)
    sees every step of every batch.
    Raises InputError for an unknown sampler, a count below 1, or steps outside 1 .. T.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}: choose {' or '.join(SAMPLERS)}.")
    if count < 1 or batch_size < 1:
        raise InputError(f"{count} pictures in batches of {batch_size}: choose at least 1 of each.")
    H, W = image_size(unet)
    C = unet.config["in_channels"]
    starts = range(0, count, batch_size)
    pictures = np.empty((count, H, W, C), np.float32)
    with (
        _evaluating(unet),
        backend.kernels.constant_weights(),
        tqdm(total=len(starts) * (steps or diffusion.T), unit="step", desc=sampler) as bar,
    ):
        for start in starts:
            shape = (min(batch_size, count - start), H, W, C)
            walk = SAMPLERS[sampler](
                diffusion,
                unet,
                shape,
                steps,
                spacing="linspace",
                seed=seed,
                first=start * H * W * C,
                replay=True,
            )
            for step in walk:
                bar.update()
                if watch is not None:
                    watch(start, step)
            pictures[start : start + len(step.x)] = backend.to_numpy(step.x)
    return pictures


@contextmanager
def _evaluating(unet: UNet2D) -> Iterator[None]:
    """Without dropout, which is for training; afterwards as before."""
    before = unet.training
    unet.eval()
    try:
        yield
    finally:
        unet.train(before)


def seconds_per_step(unet: UNet2D, batch_size: int) -> float:
    """How long one step of a batch takes here, measured on noise (the second call of two)."""
    shape = (batch_size, *image_size(unet), unet.config["in_channels"])
    x, t = random.normal(shape, 0, random.CHECK), np.zeros(batch_size, np.int64)
    for _ in range(2):
        start = time.perf_counter()
        with no_grad():
            backend.to_numpy(unet(x, t).data)  # to the host: a device returns before it is done
        seconds = time.perf_counter() - start
    return seconds


def image_size(unet: UNet2D) -> tuple[int, int]:
    """(H, W) of the pictures that the model was made for."""
    size = unet.config["sample_size"]
    if size is None:
        raise InputError(
            "the model's config.json has no sample_size: add it, so that we know H, W."
        )
    return (size, size) if isinstance(size, int) else tuple(size)

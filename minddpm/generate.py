"""Any number of pictures from a model, in batches, the same ones whatever the batch size."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from tqdm import tqdm

from minddpm import backend, random
from minddpm.autodiff import Tensor, no_grad
from minddpm.diffusion import samplers
from minddpm.diffusion.forward import Model
from minddpm.diffusion.sampling import Guided, Step
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.errors import InputError
from minddpm.models import UNet2D
from minddpm.pipeline import Pipeline
from minddpm.replay import replayed

SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": samplers.ddpm,
    "ddim": samplers.ddim,
    "dpm_solver": samplers.dpm_solver,
    "dpm_solver_2s": partial(samplers.dpm_solver, order="2S"),
    "dpm_solver_sde": partial(samplers.dpm_solver, order="SDE"),
    "probability_flow": samplers.probability_flow,
    "probability_flow_adaptive": samplers.probability_flow_adaptive,
}
# By FID; 2S, whose steps are twice as long, gains nothing by 20 of them and loses by 10.
IN_LOG_SNR = ("dpm_solver", "dpm_solver_sde")
ADAPTIVE = ("probability_flow_adaptive",)  # whose number of steps nobody knows before


def generate(
    model: Pipeline,
    count: int,
    sampler: str = "ddpm",
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Callable[[int, Step], None] | None = None,
    labels: np.ndarray | None = None,
    guidance: float = 1.0,
) -> np.ndarray:
    """Return `count` images, float32 [count, H, W, C] in about [-1, 1] on the host; show a bar.

    model: what minddpm.load returns, or (unet, diffusion). A saved model has averaged weights.
    sampler: a key of SAMPLERS. steps: None for all T. seed: image i depends on (seed, i) alone, not
    on the batch size. labels: int [count], for a class-conditional model; guidance exaggerates
    their effect (diffusion/sampling/guidance.py). watch(number of images before this batch, step)
    is called at every step.
    Raises InputError for an unknown sampler, a count below 1, steps outside 1 .. T, and labels that
    the model lacks or does not know.
    """
    unet, diffusion = model
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}: choose {' or '.join(SAMPLERS)}.")
    if count < 1 or batch_size < 1:
        raise InputError(f"{count} images in batches of {batch_size}: choose at least 1 of each.")
    if unet.num_classes and labels is None:
        raise InputError("the model is class-conditional: give a label for each image.")
    if labels is None and guidance != 1:
        raise InputError("guidance needs a label for each image: give labels, or leave it out.")
    if labels is not None and len(labels) != count:
        raise InputError(f"{len(labels)} labels for {count} images: give one for each.")
    if steps is not None:
        timesteps(diffusion.T, steps)  # refuses a wrong number, also where it means nothing
    H, W = image_size(unet)
    C = unet.config["in_channels"]
    starts = range(0, count, batch_size)
    images = np.empty((count, H, W, C), np.float32)
    total = None if sampler in ADAPTIVE else len(starts) * (steps or diffusion.T)
    with (
        _evaluating(unet),
        backend.kernels.constant_weights(),
        tqdm(total=total, unit="step", desc=sampler) as bar,
    ):
        unconditional = replayed(unet)
        for start in starts:
            shape = (min(batch_size, count - start), H, W, C)
            batch_model = unconditional
            if labels is not None:
                batch_model = Guided(unet, labels[start:][: shape[0]], guidance)
            for step in SAMPLERS[sampler](
                diffusion, batch_model, shape, steps, spacing=spacing(sampler), seed=seed,
                first=start * H * W * C,
            ):  # fmt: skip
                bar.update()
                if watch is not None:
                    watch(start, step)
            images[start : start + len(step.x)] = backend.to_numpy(step.x)
    return images


def spacing(sampler: str) -> str:
    """Which of the model's T steps a sampler of fewer takes: even in t, or in log SNR."""
    return "log_snr" if sampler in IN_LOG_SNR else "linspace"


@contextmanager
def _evaluating(unet: UNet2D) -> Iterator[None]:
    """Without dropout, which is for training; afterwards as before."""
    before = unet.training
    unet.eval()
    try:
        yield
    finally:
        unet.train(before)


def conditioned(unet: UNet2D, labels: np.ndarray | None, guidance: float = 1.0) -> Model:
    """The model, told these classes if there are any."""
    return unet if labels is None else Guided(unet, labels, guidance)


def seconds_per_run(unet: UNet2D, batch_size: int, guidance: float = 1.0) -> float:
    """How long a run of the model on a batch takes here, on noise (the second one of two)."""
    shape = (batch_size, *image_size(unet), unet.config["in_channels"])
    x, t = random.normal(shape, 0, random.CHECK), np.zeros(batch_size, np.int64)
    model = conditioned(unet, t if unet.num_classes else None, guidance)
    for _ in range(2):
        start = time.perf_counter()
        with no_grad():
            output = model(x, t)
            # to the host: a device returns before it is done
            backend.to_numpy(output.data if isinstance(output, Tensor) else output)
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

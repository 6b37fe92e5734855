"""Generate any number of samples, in batches; sample i does not depend on the batch size."""

import time
from collections.abc import Callable, Iterator
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
# Samplers whose timesteps are evenly spaced in log SNR, chosen by FID. dpm_solver_2s, whose steps
# are twice as long, gains nothing from it at 20 steps and loses at 10.
IN_LOG_SNR = ("dpm_solver", "dpm_solver_sde")
ADAPTIVE = ("probability_flow_adaptive",)  # number of steps not known in advance


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
    """Return `count` samples, float32 [count, H, W, C] in about [-1, 1]; show a progress bar.

    model: (unet, diffusion), for example the result of minddpm.load, which has averaged weights.
    sampler: a key of SAMPLERS. steps: number of sampling steps; None for all T. seed: sample i
    depends on (seed, i) alone, not on the batch size. labels: int [count], for a class-conditional
    model; guidance exaggerates their effect (diffusion/sampling/guidance.py). watch is called after
    every step, as watch(number of samples in earlier batches, step). The result is on the host.
    Raises InputError for an unknown sampler, a count below 1, steps outside 1 .. T, missing labels,
    and labels that the model does not know.
    """
    unet, diffusion = model
    # A copy, because another Python thread may be training the model, or sampling from it.
    unet = unet.with_same_weights().eval()
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
        timesteps(diffusion.T, steps)  # checks steps, even if the sampler ignores them
    H, W = image_size(unet)
    C = unet.config["in_channels"]
    starts = range(0, count, batch_size)
    images = np.empty((count, H, W, C), np.float32)
    total = None if sampler in ADAPTIVE else len(starts) * (steps or diffusion.T)
    with (
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
    """Return how a sampler spaces its timesteps: evenly in "log_snr", or in t ("linspace")."""
    return "log_snr" if sampler in IN_LOG_SNR else "linspace"


def conditioned(unet: UNet2D, labels: np.ndarray, guidance: float = 1.0) -> Model:
    """Return the model conditioned on labels [N]; without classes, return it unchanged."""
    return Guided(unet, labels, guidance) if unet.num_classes else unet


def seconds_per_run(unet: UNet2D, batch_size: int, guidance: float = 1.0) -> float:
    """Return the seconds that the model takes for a batch of noise, timed on its second run."""
    shape = (batch_size, *image_size(unet), unet.config["in_channels"])
    x, t = random.normal(shape, 0, random.CHECK), np.zeros(batch_size, np.int64)
    model = conditioned(unet, t, guidance)
    for _ in range(2):
        start = time.perf_counter()
        with no_grad():
            output = model(x, t)
            # Copying to the host synchronises: the kernels of a GPU run asynchronously.
            backend.to_numpy(output.data if isinstance(output, Tensor) else output)
        seconds = time.perf_counter() - start
    return seconds


def image_size(unet: UNet2D) -> tuple[int, int]:
    """Return (H, W) of the model's images. Raises InputError if its config has no sample_size."""
    size = unet.config["sample_size"]
    if size is None:
        raise InputError("the model's config.json has no sample_size: add it.")
    return (size, size) if isinstance(size, int) else tuple(size)

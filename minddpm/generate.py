"""Generate any number of samples, in batches; sample i does not depend on the batch size."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from minddpm import backend, parallel, random
from minddpm.autodiff import Tensor, no_grad
from minddpm.diffusion import GaussianDiffusion, samplers
from minddpm.diffusion.forward import Model
from minddpm.diffusion.sampling import Guided, Step
from minddpm.diffusion.sampling.steps import reverse_steps, timesteps
from minddpm.errors import InputError
from minddpm.models import UNet2D
from minddpm.pipeline import Pipeline
from minddpm.progress_bar import tqdm
from minddpm.replay import replayed
from minddpm.storage.memory import check_memory

SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": samplers.ddpm,
    "ddim": samplers.ddim,
    "dpm_solver": samplers.dpm_solver,
    "dpm_solver_2s": partial(samplers.dpm_solver, order="2S"),
    "dpm_solver_sde": partial(samplers.dpm_solver, order="SDE"),
    "pndm": samplers.pndm,
    "consistency": samplers.consistency,
    "probability_flow": samplers.probability_flow,
    "probability_flow_adaptive": samplers.probability_flow_adaptive,
}
# How a sampler spaces its timesteps, if not by "linspace", chosen by FID. dpm_solver_2s, whose
# steps are twice as long, gains nothing from log SNR at 20 steps and loses at 10.
SPACING = {"dpm_solver": "log_snr", "dpm_solver_sde": "log_snr", "consistency": "upper"}
ADAPTIVE = ("probability_flow_adaptive",)  # number of steps not known in advance


def generate(
    model: Pipeline,
    count: int,
    sampler: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Callable[[int, Step], None] | None = None,
    labels: np.ndarray | Sequence[int] | None = None,
    guidance: float = 1.0,
    spacing: str | None = None,
    eta: float | None = None,
    world: parallel.Alone | None = None,
) -> np.ndarray:
    """Return `count` samples, float32 [count, H, W, C] in about [-1, 1]; show a progress bar.

    model: (unet, diffusion), for example the result of minddpm.load, which has averaged weights.
    sampler: a key of SAMPLERS; None: the model's own if it was distilled or diffusers wrote it, or
    else ddpm. steps: number of sampling steps; None: those of a distilled model, or else all T.
    spacing: which timesteps (sampling/steps.py); "ddim25" and "10,15,20" replace steps. eta: of
    ddim, 0 .. 1. seed: sample i depends on (seed, i) alone, not on the batch size. labels: int
    [count], for a class-conditional model; None: each class in turn. guidance exaggerates their
    effect (diffusion/sampling/guidance.py). watch is called after every step, as watch(number of
    samples in earlier batches, step). world: ranks (parallel.py) that all call this function: each
    draws a part of the samples, and gets all of them. The result is on the host.
    Raises InputError for an unknown sampler, an option that the sampler does not have, a count
    below 1, steps outside 1 .. T, and labels that the model does not know.
    """
    unet, diffusion = model
    # A copy, because another Python thread may be training the model, or sampling from it.
    unet = unet.with_same_weights().eval()
    sampler, options = sampler_options(diffusion, sampler, spacing, eta)
    steps = own_steps(diffusion, sampler, spacing) if steps is None else steps
    number = number_of_steps(diffusion, steps, options)
    if count < 1 or batch_size < 1:
        raise InputError(f"{count} images in batches of {batch_size}: choose at least 1 of each.")
    if unet.num_classes and labels is None:
        labels = labels_in_turn(unet, count)
    if labels is None and guidance != 1:
        raise InputError("guidance needs a model with classes: leave it out.")
    if labels is not None and len(labels) != count:
        raise InputError(f"{len(labels)} labels for {count} images: give one for each.")
    H, W = image_size(unet)
    C = unet.config["in_channels"]
    world = world or parallel.Alone()
    mine = world.part(count)
    starts = range(mine.start, mine.stop, batch_size)
    check_batch(unet, min(batch_size, mine.stop - mine.start))
    images = np.empty((mine.stop - mine.start, H, W, C), np.float32)
    total = None if sampler in ADAPTIVE else len(starts) * number
    with (
        backend.kernels.constant_weights(),
        tqdm(total=total, unit="step", desc=sampler, disable=world.rank > 0) as bar,
    ):
        model = replayed(unet)
        for start in starts:
            shape = (min(batch_size, mine.stop - start), H, W, C)
            batch_model = model
            if labels is not None:
                batch_model = Guided(unet, labels[start:][: shape[0]], guidance, model)
            for step in SAMPLERS[sampler](
                diffusion, batch_model, shape, steps, seed=seed, first=start * H * W * C, **options
            ):  # fmt: skip
                bar.update()
                if watch is not None:
                    watch(start, step)
            first = start - mine.start
            images[first : first + len(step.x)] = backend.to_numpy(step.x)
    return world.gather(images)


def sampler_options(
    diffusion: GaussianDiffusion, sampler: str | None, chosen: str | None = None,
    eta: float | None = None,
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """Return the sampler's name and its options: those of the saved pipeline for its own sampler.

    chosen: a spacing. Raises InputError for an unknown sampler and options that it does not have.
    """
    own = diffusion.sampling
    sampler = sampler or (own.sampler if own else "ddpm")
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}: choose {' or '.join(SAMPLERS)}.")
    if eta is not None and sampler != "ddim":
        raise InputError(f"{sampler} has no eta: leave it out, or choose sampler ddim.")
    if chosen is not None and sampler in ADAPTIVE:
        raise InputError(f"{sampler} chooses its own timesteps: leave out spacing.")
    options: dict[str, Any] = {"spacing": spacing(sampler)}
    if own is not None and own.sampler == sampler:
        options |= own.options
    options |= {} if chosen is None else {"spacing": chosen}
    return sampler, options | ({} if eta is None else {"eta": eta})


def own_steps(diffusion: GaussianDiffusion, sampler: str, chosen: str | None) -> int | None:
    """Return the number of steps for which the model was distilled, if these are its timesteps."""
    own = diffusion.sampling
    return own.steps if own and own.sampler == sampler and chosen is None else None


def number_of_steps(
    diffusion: GaussianDiffusion, steps: int | None, options: dict[str, Any]
) -> int:
    """Return the number of sampling steps; InputError if the options do not allow these steps."""
    if steps is not None:
        timesteps(diffusion.T, steps)  # checks steps, even if the sampler ignores them
    return len(list(reverse_steps(diffusion, steps, options["spacing"])))


def spacing(sampler: str) -> str:
    """Return how a sampler spaces its timesteps, unless another spacing is given."""
    return SPACING.get(sampler, "linspace")


def labels_in_turn(unet: UNet2D, count: int) -> np.ndarray:
    """Return labels [count] of a class-conditional model: each class in turn, then again."""
    return np.arange(count) % unet.num_classes


def conditioned(
    unet: UNet2D, labels: np.ndarray, guidance: float = 1.0, model: Model | None = None
) -> Model:
    """Return the model conditioned on labels [N]; without classes, return it unchanged.

    model: what computes the outputs, the unet itself (None) or replayed(unet).
    """
    return Guided(unet, labels, guidance, model) if unet.num_classes else model or unet


def seconds_per_run(unet: UNet2D, batch_size: int, guidance: float = 1.0) -> float:
    """Return the seconds that the model takes for a batch of noise, timed on its second run.

    On a GPU its kernels are compiled before the first one, several files at a time.
    """
    shape = (batch_size, *image_size(unet), unet.config["in_channels"])
    x, t = random.normal(shape, 0, random.CHECK), np.zeros(batch_size, np.int64)
    model = conditioned(unet, t, guidance)

    def run() -> None:
        with no_grad():
            output = model(x, t)
        # Copying to the host synchronises: the kernels of a GPU run asynchronously.
        backend.to_numpy(output.data if isinstance(output, Tensor) else output)

    backend.compile_ahead(run)
    for _ in range(2):
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
    return seconds


def check_batch(unet: UNet2D, count: int) -> None:
    """Raise InputError if a batch needs more memory than this machine has.

    It needs at least the skips of the UNet's first level, in float32. A configuration may state any
    size of an image.
    """
    H, W = image_size(unet)
    config = unet.config
    each = 4 * H * W * config["block_out_channels"][0] * (config["layers_per_block"] + 1)
    check_memory(count * each, f"a batch of {count} images of {H} x {W} pixels")


def image_size(unet: UNet2D) -> tuple[int, int]:
    """Return (H, W) of the model's images. Raises InputError if its config has no sample_size."""
    size = unet.config["sample_size"]
    if size is None:
        raise InputError("the model's config.json has no sample_size: add it.")
    return (size, size) if isinstance(size, int) else tuple(size)

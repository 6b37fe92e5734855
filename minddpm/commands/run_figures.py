"""The figures of a training run: the forward process, samples and the loss."""

import itertools
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minddpm import backend, random
from minddpm.commands.classes import class_grid, labels_of_all_classes
from minddpm.data import ImageDataset, to_float
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.sampling import Step
from minddpm.diffusion.schedules import half_log_snr
from minddpm.drawing import curve, save_gif, save_png, strip
from minddpm.generate import generate
from minddpm.models import UNet2D
from minddpm.training.run_directory import LOSS, RunDirectory, read_loss

# Label -> column of loss.csv.
LOSSES = {"all t": "loss", **{f"t in quarter {q}": f"loss_q{q}" for q in range(1, 5)}}
FRAMES = 40  # approximate number of frames of denoising.gif
BATCH = 64  # samples that are drawn at once
# log(alpha / sigma) at which the noise is barely visible, and at which only noise is visible.
BARELY_NOISY, ONLY_NOISE = 3.0, -2.0


def draw_forward(
    run: RunDirectory, diffusion: GaussianDiffusion, dataset: ImageDataset, seed: int
) -> None:
    """Write forward.png: six images at eleven timesteps; q_sample noises each in one jump."""
    x0 = backend.xp.asarray(to_float(dataset.images[:6]))
    noise = random.normal(x0.shape, seed, random.NOISE)
    timesteps = forward_timesteps(diffusion.alphas_cumprod, count=11)
    frames = [diffusion.q_sample(x0, np.full(len(x0), t), noise) for t in timesteps]
    labels = [f"t={t}" for t in timesteps]
    save_png(strip([backend.to_numpy(x) for x in frames], labels), run.path / "forward.png")


def forward_timesteps(alphas_cumprod: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` timesteps, rising int64, between which the noised image visibly changes.

    They are evenly spaced in log(alpha / sigma), half the log SNR, between BARELY_NOISY and
    ONLY_NOISE. With timesteps evenly spaced in t, most images of a linear schedule would show only
    noise.
    """
    log_snr = half_log_snr(alphas_cumprod)
    wanted = np.linspace(BARELY_NOISY, ONLY_NOISE, count)
    return np.unique(np.abs(log_snr - wanted[:, None]).argmin(axis=1))


def draw_samples(
    run: RunDirectory,
    unet: UNet2D,
    diffusion: GaussianDiffusion,
    count: int,
    sampler: str,
    steps: int,
    seed: int,
    guidance: float = 1.0,
) -> None:
    """Write samples.png, and denoising.gif, which shows 25 of the samples during sampling.

    A class-conditional model gets one row per class.
    """
    frames: list[np.ndarray] = []
    shown = np.linspace(0, min(count, BATCH) - 1, min(count, 25)).astype(int)  # of all classes
    every = max(1, steps // FRAMES)
    step_numbers = itertools.count()

    def watch(start: int, step: Step) -> None:
        if start == 0 and next(step_numbers) % every == 0:
            frames.append(backend.to_numpy(step.x)[shown])

    labels = labels_of_all_classes(unet, count)
    samples = generate(
        (unet, diffusion), count, sampler, steps, seed, BATCH, watch, labels, guidance
    )  # fmt: skip
    frames.append(samples[shown])
    save_png(class_grid(samples, labels), run.path / "samples.png")
    save_gif(frames, run.path / "denoising.gif")


def draw_loss(run: RunDirectory) -> None:
    """Write loss.png: the loss at each step, for all t and for each quarter of the timesteps."""
    draw_log(run, LOSSES, "mean squared error", log_y=True)


def draw_log(run: RunDirectory, names: dict[str, str], ylabel: str, log_y: bool = False) -> None:
    """Write loss.png: smoothed columns of loss.csv by step; names: label -> column."""
    rows = read_loss(run.path / LOSS, ("step", *names.values()))
    steps = [row["step"] for row in rows]
    series = {
        label: (steps, smooth([row[column] for row in rows])) for label, column in names.items()
    }
    curve(series, run.path / "loss.png", "Training loss", "step", ylabel, log_y=log_y)


def smooth(values: Sequence[float], width: int = 9) -> np.ndarray:
    """Return the running median over `width` (an odd number of) values, ignoring nan.

    Over at most about a quarter of them: over all, a curve that falls would be flat.
    """
    if len(values) == 0:
        return np.empty(0)
    width = min(width, 2 * (len(values) // 8) + 1)
    padded = np.pad(np.asarray(values, np.float64), width // 2, constant_values=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the median of nothing but nan is nan
        return np.nanmedian(sliding_window_view(padded, width), axis=1)

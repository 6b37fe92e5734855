"""The pictures that a training run leaves: what it learned from, how it samples, how it went."""

from itertools import count as count_from

import numpy as np

from minddpm import backend, random
from minddpm.data import ImageDataset, to_float
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.sampling import Step
from minddpm.drawing import curve, grid, save_gif, save_png, strip
from minddpm.generate import generate
from minddpm.models import UNet2D
from minddpm.training.run_directory import LOSS, RunDirectory, read_loss

FRAMES = 40  # of denoising.gif


def draw_forward(
    run: RunDirectory, diffusion: GaussianDiffusion, dataset: ImageDataset, seed: int
) -> None:
    """forward.png: six images at eleven times, each noised in one jump by q_sample."""
    x0 = backend.xp.asarray(to_float(dataset.images[:6]))
    noise = random.normal(x0.shape, seed, random.NOISE)
    times = np.linspace(0, diffusion.T - 1, 10).round().astype(int)
    frames = [x0] + [diffusion.q_sample(x0, np.full(len(x0), t), noise) for t in times]
    labels = ["x0"] + [f"t={t}" for t in times]
    save_png(strip([backend.to_numpy(x) for x in frames], labels), run.path / "forward.png")


def draw_samples(
    run: RunDirectory,
    unet: UNet2D,
    diffusion: GaussianDiffusion,
    count: int,
    sampler: str,
    steps: int,
    seed: int,
) -> None:
    """samples.png, and denoising.gif: the first 25 of them on the way from noise.

    Of a class-conditional model a row for each class.
    """
    frames: list[np.ndarray] = []
    every = max(1, steps // FRAMES)
    seen = count_from()

    def watch(start: int, step: Step) -> None:
        if start == 0 and next(seen) % every == 0:
            frames.append(backend.to_numpy(step.x[:25]))

    labels, columns = class_rows(unet, count)
    pictures = generate((unet, diffusion), count, sampler, steps, seed, watch=watch, labels=labels)
    frames.append(pictures[:25])
    save_png(grid(pictures, columns), run.path / "samples.png")
    save_gif(frames, run.path / "denoising.gif")


def class_rows(unet: UNet2D, count: int) -> tuple[np.ndarray | None, int | None]:
    """Labels [count] and columns of a grid with a row for each class; None, None without any."""
    if not unet.num_classes:
        return None, None
    columns = -(-count // unet.num_classes)
    return np.arange(count) // columns, columns


def draw_loss(run: RunDirectory) -> None:
    """loss.png: the loss of every quartile of t over the steps, and of all together."""
    names = {"all t": "loss", **{f"t in quarter {q}": f"loss_q{q}" for q in range(1, 5)}}
    draw_log(run, names, "mean squared error", log_y=True)


def draw_log(run: RunDirectory, names: dict[str, str], ylabel: str, log_y: bool = False) -> None:
    """loss.png: columns of the log over the steps, smoothed; names: label -> column."""
    rows = read_loss(run.path / LOSS, ("step", *names.values()))
    steps = [row["step"] for row in rows]
    series = {
        label: (steps, smooth([row[column] for row in rows])) for label, column in names.items()
    }
    curve(series, run.path / "loss.png", "Training loss", "step", ylabel, log_y=log_y)


def smooth(values: list[float], width: int = 9) -> np.ndarray:
    """The median of the values around each one, missing ones (nan) left out."""
    half = width // 2
    windows = [np.array(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    return np.array(
        [np.median(w[~np.isnan(w)]) if not np.isnan(w).all() else np.nan for w in windows]
    )

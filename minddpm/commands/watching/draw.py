"""The process that draws samples of a run while it trains (sampler.py has its other end).

    python -m minddpm.commands.watching.draw DIRECTORY BACKEND SEED STEP

Each line of stdin asks for samples of the model in DIRECTORY: {"step": ..., "version": ...}. It
writes DIRECTORY/progress/samples-<step>.png, denoising-<step>.png, and samples.js, which tells the
page of them. It draws nothing if the model has been replaced meanwhile. STEP: the one at which the
training begins; pictures of later steps are of a part of the run that is done again.
"""

import json
import os
import queue
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from minddpm import backend
from minddpm.commands import cli
from minddpm.commands.classes import labels_of_all_classes
from minddpm.commands.watching.page import SAMPLES, call, write_quietly
from minddpm.commands.watching.sampler import FOLDER, READY, version, weights_of
from minddpm.diffusion.sampling import Step
from minddpm.drawing import grid, save_png
from minddpm.errors import InputError
from minddpm.generate import generate
from minddpm.kernels.jit import numba_problem
from minddpm.pipeline import Pipeline, load

COUNT, COLUMNS = 16, 4  # samples
# Without noise, so that an image changes only as far as the model does.
SAMPLER, STEPS = "dpm_solver", 12
NAME = re.compile(r"samples-(\d+)\.png")


def main() -> None:
    """Draw what stdin asks for until it is closed."""
    directory, name, seed, step = sys.argv[1:]
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=receive, args=(requests,), daemon=True).start()
    choose_backend(name)
    folder = Path(directory, FOLDER)
    for number, path in pictures(folder).items():
        if number > int(step):
            path.unlink()
    while True:
        print(READY, flush=True)
        request = json.loads(requests.get())
        try:
            draw(Path(directory), int(seed), **request)
        except InputError as error:
            # Files of two versions of the model do not fit, or the disk is full: next time.
            print(error, flush=True)


def receive(requests: queue.Queue[str]) -> None:
    """Put the lines of stdin into a queue; end this process at once when stdin is closed."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def choose_backend(training: str) -> None:
    """Use the training's backend in one thread, or beside a GPU the processor with all its cores.

    training: the name of its backend.
    """
    beside_gpu = backend.BACKENDS[training][0] == "cupy"
    if beside_gpu:
        training = "numpy" if numba_problem() else "numba"
    backend.set_backend(training)
    backend.set_threads(None if beside_gpu else 1)


def draw(directory: Path, seed: int, step: int, version: list[int]) -> None:
    """Write the pictures of the model and samples.js, unless the model is of another version."""
    model = load_version(directory, version)
    if model is None:
        return
    folder = directory / FOLDER
    samples, frames = sampled(model, seed)
    save_png(sheet(samples), folder / f"samples-{step:06d}.png")
    denoising = folder / f"denoising-{step:06d}.png"
    below = np.concatenate([np.asarray(sheet(frame)) for frame in frames.values()])
    save_png(Image.fromarray(below), denoising)
    content = {
        "pictures": [
            {"step": number, "file": path.name} for number, path in pictures(folder).items()
        ],
        "denoising": {"step": step, "file": denoising.name, "t": list(frames)},
        "cost": f"{cli.peak_memory()}, {time.process_time():.0f} s of processor time so far",
    }
    write_quietly(directory / SAMPLES, call("samples", content))
    for old in set(folder.glob("denoising-*.png")) - {denoising}:
        old.unlink()


def load_version(directory: Path, wanted: list[int]) -> Pipeline | None:
    """Return the model, or None if the training has replaced it before it was read."""
    weights = weights_of(directory)
    if version(weights) != wanted:
        return None
    model = load(directory)
    return model if version(weights) == wanted else None


def sampled(model: Pipeline, seed: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Return COUNT samples, [COUNT, H, W, C], and {t: x_t} of each sampling step.

    A distilled model is sampled as it was trained to be.
    """
    unet, diffusion = model
    frames: dict[int, np.ndarray] = {}

    def watch(_: int, step: Step) -> None:
        frames[int(step.t)] = backend.to_numpy(step.x)

    sampler, steps = (None, None) if diffusion.sampling else (SAMPLER, min(STEPS, diffusion.T))
    labels = labels_of_all_classes(unet, COUNT)
    samples = generate(model, COUNT, sampler, steps, seed, watch=watch, labels=labels)
    return samples, frames


def sheet(images: np.ndarray) -> Image.Image:
    """Return images side by side, COLUMNS in a row, without enlargement: the page enlarges them."""
    return grid(images, COLUMNS, pad=1, scale=1)


def pictures(folder: Path) -> dict[int, Path]:
    """Return {step: path} of the samples in a folder, in order."""
    found = {int(match[1]): path for path in folder.glob("*.png")
             if (match := NAME.fullmatch(path.name))}  # fmt: skip
    return dict(sorted(found.items()))


if __name__ == "__main__":
    main()

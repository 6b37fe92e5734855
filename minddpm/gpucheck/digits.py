"""A training for some seconds, and how good the digits are that its model then draws."""

import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import minddpm
from minddpm import backend, random
from minddpm.data import ImageDataset, load_mnist, to_uint8
from minddpm.drawing import grid, save_png
from minddpm.errors import InputError
from minddpm.evaluation.metrics import FeatureStatistics, frechet_distance
from minddpm.evaluation.metrics.judge import Judge, load_judge
from minddpm.generate import generate
from minddpm.gpucheck import timings
from minddpm.gpucheck.checks import first_line, new_trainer
from minddpm.training.ddpm import Trainer
from minddpm.training.recipe import DIGITS

SECONDS = 90  # at most
TRAINING = 0.8  # of the time; the rest is for sampling and the judge
SAMPLES, SHOWN, SAMPLING_STEPS = 1024, 64, 20
REAL = 4000  # digits whose features the samples' are compared with
SURE = np.log(0.95)
SYNCHRONISED = 10  # steps that are launched without waiting for the device


class Digits(NamedTuple):
    """A training: its steps, how long it took, the loss of the last step; and its samples.

    fid: by the features of our own MNIST classifier, the judge. sure: the share of samples whose
    class the judge knows with a probability of 95%. Those of as many real digits are beside them.
    picture: the file with the first samples. note: why it was not written. missing: why there was
    no training. problem: why it failed.
    """

    steps: int = 0
    training_seconds: float = 0.0
    loss: float | None = None
    fid: float | None = None
    fid_of_real: float | None = None
    sure: float | None = None
    sure_of_real: float | None = None
    data: str = ""
    picture: str = ""
    note: str = ""
    missing: str = ""
    problem: str = ""


def digits(seconds: float, picture: Path, quick: bool) -> Digits:
    """Train a UNet for a part of the seconds, at most SECONDS, and judge its samples."""
    seconds = TRAINING * min(seconds, SECONDS)
    minddpm.set_backend("cupy")
    try:
        data = load_mnist()
    except InputError as why:  # no digits anywhere
        return Digits(missing=str(why))
    try:
        trainer = _trainer(data, quick)
        found = _train(trainer, seconds)._replace(data=data.source)
        with trainer.ema.applied():
            samples = _samples(trainer, timings.QUICK_BATCH if quick else SAMPLES)
        found = found._replace(**_judged(samples, data))
    except Exception as problem:  # any error of the device
        return Digits(problem=first_line(problem))
    try:
        save_png(grid(samples[:SHOWN]), picture)
    except InputError as why:  # the numbers count without it, too
        return found._replace(note=str(why))
    return found._replace(picture=str(picture))


def _trainer(data: ImageDataset, quick: bool) -> Trainer:
    """Return a trainer by the recipe of examples/train_mnist.py, with a GPU's batch."""
    return new_trainer(DIGITS, data, batch_size=timings.QUICK_BATCH if quick else timings.BATCH)


def _train(trainer: Trainer, seconds: float) -> Digits:
    """Train for as many steps as fit into the seconds.

    Their number follows from the time of those so far, until the learning rate begins to fall.
    """
    begun = time.monotonic()
    loss = _steps(trainer, SYNCHRONISED)  # the first ones are recorded, to be replayed
    replayed, first = time.monotonic(), trainer.step
    while trainer.step < trainer.options.steps:
        loss = _steps(trainer, min(SYNCHRONISED, trainer.options.steps - trainer.step))
        now = time.monotonic()
        if trainer.step <= trainer.options.cooldown_begins:
            more = (begun + seconds - now) * (trainer.step - first) / (now - replayed)
            steps = trainer.step + max(0, int(more))
            trainer.options = dataclasses.replace(trainer.options, steps=steps)
    return Digits(trainer.step, time.monotonic() - begun, loss)


def _steps(trainer: Trainer, count: int) -> float:
    """Do so many steps; return the loss of the last one, which waits for the device."""
    for _ in range(count):
        record = trainer.train_step()
    loss = float(backend.to_numpy(record.losses).mean())
    if not np.isfinite(loss):
        raise ArithmeticError(f"the loss of step {record.step} is {loss}")
    return loss


def _samples(trainer: Trainer, count: int) -> np.ndarray:
    model, batch = (trainer.unet, trainer.diffusion), trainer.options.batch_size
    return generate(model, count, "dpm_solver_sde", SAMPLING_STEPS, batch_size=batch)


def _judged(samples: np.ndarray, data: ImageDataset) -> dict[str, float | None]:
    """Return the scores of float images [n, H, W, C], and those of n real ones."""
    judge, n = load_judge(), len(samples)
    order = random.permutation(len(data), 0, random.METRIC)
    real = data.images[order[: n + REAL]]
    statistics = _statistics(judge, judge.run(real[n:]).features)
    scores: dict[str, float | None] = {}
    for images, of in ((to_uint8(samples), ""), (real[:n], "_of_real")):
        output = judge.run(images)
        own = _statistics(judge, output.features)
        if own is not None and statistics is not None:
            scores[f"fid{of}"] = frechet_distance(statistics, own)
        scores[f"sure{of}"] = float((output.log_p.max(axis=1) > SURE).mean())
    return scores


def _statistics(judge: Judge, features: np.ndarray) -> FeatureStatistics | None:
    """Return mean and covariance, which needs more images than features."""
    return FeatureStatistics(features) if len(features) > judge.width else None

"""Train, sample and judge one system with one seed; reuse results that already exist."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minddpm import backend
from minddpm.baselines.sampling import bound, load_baseline
from minddpm.baselines.vae.model import VAE, active_units
from minddpm.commands import run_options, training_run
from minddpm.commands.watching import watchers
from minddpm.data import ImageDataset, to_float, to_uint8
from minddpm.data.image_archive import read_images
from minddpm.diffusion.scheduler_file import load_diffusion
from minddpm.errors import InputError
from minddpm.evaluation.comparison import detail
from minddpm.evaluation.comparison.systems import DDPM, SLIDES, SYSTEMS, Sampler, System
from minddpm.evaluation.comparison.table import Results, summary
from minddpm.evaluation.metrics.likelihood import bits_per_dim
from minddpm.evaluation.report import Reference, evaluate
from minddpm.generate import generate
from minddpm.models import UNet2D
from minddpm.storage.atomic import atomic_write
from minddpm.storage.json_files import read_json, write_json
from minddpm.training.loop import Loop
from minddpm.training.options import LoopOptions
from minddpm.training.run_directory import RUN, RunDirectory

TRAINING = ("steps", "batch_size", "ms_per_step", "minutes", "parameters")
RESULT, SAMPLES = "result.json", "pictures.npz"
SHOWN = 64  # samples stored for the report


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings of a comparison, the same for every system and seed.

    minutes: training time of each run, which determines its number of steps; None: use the steps of
    the lecture slides. count: number of samples to judge. bound_images: number of test digits for
    bits/dim.
    """

    out: Path
    seeds: tuple[int, ...]
    minutes: float | None
    count: int = 1000
    sampler: Sampler = dataclasses.field(default_factory=Sampler)
    classification_steps: int | None = 1000
    bound_images: int = 500

    @property
    def systems(self) -> tuple[System, ...]:
        """Return the systems to compare."""
        return SLIDES if self.minutes is None else SYSTEMS


def directory(plan: Plan, system: System, seed: int) -> Path:
    """Return the run directory of this system and seed."""
    return plan.out / f"{system.name.lower()}-{seed}"


def train(plan: Plan, system: System, seed: int, dataset: ImageDataset) -> dict[str, Any] | None:
    """Train, resuming if possible, and return times and sizes; None if Ctrl-C stopped training."""
    path = directory(plan, system, seed)
    timing = path / "training.json"
    if timing.is_file():
        return _stored(timing, lambda content: [content[name] + 0.0 for name in TRAINING])
    run = RunDirectory(path)
    if (path / RUN).is_file():
        training_run.check_same_data(run, dataset)
        loop = system.loop(dataset, run, _stored_options(system, seed, run))
        loop.resume()
    else:
        steps = _steps(plan, system, dataset, run)
        loop = system.loop(dataset, run, system.options(steps, seed))
        run.check_new(loop.bytes_needed())
        run.write_info(dataclasses.asdict(loop.options), dataset.identity())
    loop.watchers = watchers(loop, 0, False)  # no samples: they would take time, which is measured
    before, started = loop.step, time.perf_counter()
    print(f"{system.name}, seed {seed}: {loop.options.steps:,} steps", flush=True)
    if not loop.train():
        return None
    done = loop.step - before
    # If the process was killed between the last checkpoint and training.json, no step is left.
    seconds = (time.perf_counter() - started) / done if done else _seconds(loop, minutes=0)
    summary = {
        "steps": loop.step,
        "batch_size": loop.options.batch_size,
        "ms_per_step": 1000 * seconds,
        "minutes": loop.step * seconds / 60,
        "parameters": loop.parameters(),
    }
    write_json(timing, summary)
    return summary


def _stored(path: Path, use: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the content of a file. Raises InputError if it cannot be used as it will be."""
    content = read_json(path)
    try:
        use(content)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} lacks a number ({error!r}): remove the file to compute it again."
        ) from error
    return content


def _stored_options(system: System, seed: int, run: RunDirectory) -> LoopOptions:
    """Return the options in run.json. Raises InputError for a value of a wrong type or range."""
    options = system.options(1, seed)
    # If run.json lacks the number of steps, the invalid default 0 raises InputError.
    defaults = {**dataclasses.asdict(options), "steps": 0}
    stored = run_options.stored_options(run, defaults, {})
    return training_run.training_options(type(options), stored)


def _steps(plan: Plan, system: System, dataset: ImageDataset, run: RunDirectory) -> int:
    """Return the number of steps that fit into plan.minutes, timed for the first seed alone."""
    if plan.minutes is None:
        return system.slides_steps
    first = directory(plan, system, plan.seeds[0])
    if (first / RUN).is_file():
        return _stored_options(system, plan.seeds[0], RunDirectory(first)).steps
    seconds = _seconds(system.loop(dataset, run, system.options(1, plan.seeds[0])), plan.minutes)
    return max(1, round(60 * plan.minutes / seconds))


def _seconds(loop: Loop, minutes: float) -> float:
    """Return the median seconds of a trial, timed for 1/20 of `minutes`."""
    for _ in range(2):
        loop.trial()  # compiles the kernels, then records them
    end, seconds = time.perf_counter() + 60 * minutes / 20, []
    while not seconds or time.perf_counter() < end:
        started = time.perf_counter()
        loop.trial()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)  # unlike the mean, not affected by short interruptions


def judge(
    plan: Plan, system: System, seed: int, training: dict[str, Any], reference: Reference
) -> dict[str, Any]:
    """Sample, compute all metrics, write result.json and return its content."""
    path = directory(plan, system, seed)
    if (path / RESULT).is_file():
        return _stored(path / RESULT, lambda content: _check_result({system.name: [content]}))
    started = time.perf_counter()
    samples = to_uint8(system.sample(path, plan.count, seed, plan.sampler))
    sampling_seconds = time.perf_counter() - started
    with atomic_write(path / SAMPLES) as file:
        np.savez_compressed(file, images=samples[:SHOWN])
    about = {
        "weights": "EMA", "seed": seed, **system.describe_sampling(plan.sampler),
        "labels": "the judge's",
    }  # fmt: skip
    metrics = evaluate(reference, samples, None, about, plan.classification_steps)
    result = {
        **training,
        "sampling_seconds_per_1000": 1000 * sampling_seconds / plan.count,
        **detail.measure(samples, reference.real_images(plan.count)),
        "metrics": metrics,
        **_likelihood(plan, path, reference.test, seed),
    }
    write_json(path / RESULT, result)
    return result


def _check_result(results: Results) -> None:
    """Raise one of the errors that _stored expects if the report cannot be made of the results."""
    summary(results)
    detail.lines(results)


def _likelihood(plan: Plan, path: Path, test: ImageDataset, seed: int) -> dict[str, Any]:
    n = min(plan.bound_images, len(test))
    baseline = load_baseline(path)
    if baseline is None:
        unet = UNet2D.from_pretrained(path).eval()
        return {"bound": bits_per_dim(unet, load_diffusion(path), test, n, 10, seed=seed)}
    if not isinstance(baseline, VAE):
        return {}
    part = ImageDataset(test.images[:n], None, test.source)
    reconstruction, kl, codes = bound(baseline, part, seed=seed)
    return {
        "elbo_nats": float((reconstruction + kl.sum(axis=1)).mean()),
        "active_units": active_units(codes),
    }


def frames(plan: Plan, seed: int, columns: int = 8, most: int = 50) -> dict[int, np.ndarray]:
    """Return the DDPM's first samples at up to `most` sampling steps: {step: [columns, H, W, C]}.

    The steps are evenly spaced and include the last. The report shows the frames with a slider.
    """
    path = directory(plan, DDPM(), seed)
    model = UNet2D.from_pretrained(path), load_diffusion(path)
    images: list[np.ndarray] = []
    generate(
        model, columns, plan.sampler.name, plan.sampler.steps, seed,
        watch=lambda _, step: images.append(backend.to_numpy(step.x)),
    )  # fmt: skip
    n = len(images)
    shown = [n * (i + 1) // min(n, most) for i in range(min(n, most))]
    return {step: images[step - 1] for step in shown}


def first_samples(plan: Plan, system: System, seed: int) -> np.ndarray:
    """Return the first SHOWN samples of a judged run, float32 in [-1, 1]."""
    return to_float(read_images(directory(plan, system, seed) / SAMPLES)[0])

"""Train, sample and judge one system with one seed; what is there already is not done again."""

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from minddpm import backend
from minddpm.baselines.sampling import bound, load_maker
from minddpm.baselines.vae.model import VAE, active_units
from minddpm.commands import training_run as command
from minddpm.data import ImageDataset, to_float, to_uint8
from minddpm.diffusion import scheduler_file as checkpoint
from minddpm.evaluation.comparison.systems import DDPM, SLIDES, SYSTEMS, Sampler, System
from minddpm.evaluation.metrics.likelihood import bits_per_dim
from minddpm.evaluation.report import Reference, evaluate
from minddpm.generate import generate
from minddpm.models import UNet2D
from minddpm.storage.atomic import atomic_write
from minddpm.storage.json_files import read_json, write_json
from minddpm.training.loop import Loop
from minddpm.training.options import LoopOptions
from minddpm.training.run_directory import RUN, STATE, RunDirectory

RESULT, PICTURES = "result.json", "pictures.npz"
SHOWN = 64


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is done with each system and seed.

    minutes: of training, by which the number of steps is chosen; None: the slides' steps.
    count: pictures to judge. bound_images: test digits for bits/dim.
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
        """What is compared."""
        return SLIDES if self.minutes is None else SYSTEMS


def directory(plan: Plan, system: System, seed: int) -> Path:
    """Where a run lies."""
    return plan.out / f"{system.name.lower()}-{seed}"


def train(plan: Plan, system: System, seed: int, dataset: ImageDataset) -> dict[str, Any] | None:
    """Train to the end, from where it stood; times and sizes, or None if Ctrl-C stopped it."""
    path = directory(plan, system, seed)
    timing = path / "training.json"
    if timing.is_file():
        return read_json(timing)
    run = RunDirectory(path)
    if (path / RUN).is_file():
        command.check_same_data(run, dataset)
        loop = system.loop(dataset, run, _kept_options(system, seed, run))
        if (path / STATE).is_file():
            loop.resume()
    else:
        steps = _steps(plan, system, dataset, run)
        loop = system.loop(dataset, run, system.options(steps, seed))
        run.check_new(loop.bytes_needed())
        run.write_info(dataclasses.asdict(loop.options), dataset.identity())
    before, started = loop.step, time.perf_counter()
    print(f"{system.name}, seed {seed}: {loop.options.steps:,} steps", flush=True)
    if not loop.train():
        return None
    done = loop.step - before
    # Killed between its last checkpoint and training.json, it has no steps left to be timed.
    seconds = (time.perf_counter() - started) / done if done else _seconds(loop, minutes=0)
    told = {
        "steps": loop.step,
        "batch_size": loop.options.batch_size,
        "ms_per_step": 1000 * seconds,
        "minutes": loop.step * seconds / 60,
        "parameters": loop.parameters(),
    }
    write_json(timing, told)
    return told


def _kept_options(system: System, seed: int, run: RunDirectory) -> LoopOptions:
    """What run.json says. Raises InputError if it makes no sense."""
    begun = system.options(1, seed)
    defaults = {**dataclasses.asdict(begun), "steps": 0}  # no number of steps would be a guess
    return command.training_options(type(begun), command.kept_options(run, defaults, {}))


def _steps(plan: Plan, system: System, dataset: ImageDataset, run: RunDirectory) -> int:
    """How many steps plan.minutes are: timed for the first seed, and the same for all of them."""
    if plan.minutes is None:
        return system.slides_steps
    first = directory(plan, system, plan.seeds[0])
    if (first / RUN).is_file():
        return _kept_options(system, plan.seeds[0], RunDirectory(first)).steps
    seconds = _seconds(system.loop(dataset, run, system.options(1, plan.seeds[0])), plan.minutes)
    return max(1, round(60 * plan.minutes / seconds))


def _seconds(loop: Loop, minutes: float) -> float:
    """Of a step, which takes about as long as its gradients; timed for 1/20 of the minutes."""
    loop.gradients()  # compiles the kernels
    until, seconds = time.perf_counter() + 60 * minutes / 20, []
    while not seconds or time.perf_counter() < until:
        started = time.perf_counter()
        loop.gradients()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)  # what else the machine does for a while does not count


def judge(
    plan: Plan, system: System, seed: int, training: dict[str, Any], reference: Reference
) -> dict[str, Any]:
    """Sample and measure: what result.json holds."""
    path = directory(plan, system, seed)
    if (path / RESULT).is_file():
        return read_json(path / RESULT)
    started = time.perf_counter()
    pictures = to_uint8(system.pictures(path, plan.count, seed, plan.sampler))
    sampling = time.perf_counter() - started
    with atomic_write(path / PICTURES) as file:
        np.savez_compressed(file, images=pictures[:SHOWN])
    about = {"weights": "EMA", "seed": seed, **system.how(plan.sampler), "labels": "the judge's"}
    numbers = evaluate(reference, pictures, None, about, plan.classification_steps)
    result = {
        **training,
        "sampling_seconds_per_1000": 1000 * sampling / plan.count,
        "grey_pixels": {
            "value": grey_pixels(pictures),
            "floor": grey_pixels(reference.real(plan.count)),
        },
        "metrics": numbers,
        **_likelihood(plan, path, reference.test, seed),
    }
    write_json(path / RESULT, result)
    return result


def grey_pixels(images: np.ndarray) -> float:
    """The share of uint8 pixels that are neither paper nor ink: how blurred pictures are."""
    return float(((images > 50) & (images < 205)).mean())


def _likelihood(plan: Plan, path: Path, test: ImageDataset, seed: int) -> dict[str, Any]:
    n = min(plan.bound_images, len(test))
    maker = load_maker(path)
    if maker is None:
        unet = UNet2D.from_pretrained(path).eval()
        diffusion = checkpoint.load_diffusion(path)
        return {"bound": bits_per_dim(unet, diffusion, test, n, 10, seed=seed)}
    if not isinstance(maker, VAE):
        return {}
    part = ImageDataset(test.images[:n], None, test.source)
    reconstruction, kl, codes = bound(maker, part, seed=seed)
    return {
        "elbo_nats": float((reconstruction + kl.sum(axis=1)).mean()),
        "active_units": active_units(codes),
    }


def frames(plan: Plan, seed: int, columns: int = 8, most: int = 50) -> dict[int, np.ndarray]:
    """How the DDPM's first pictures came from noise, for the slider: {step: [columns, H, W, C]}.

    At most `most` steps of those that drew them, the last one among them.
    """
    path = directory(plan, DDPM(), seed)
    unet, diffusion = UNet2D.from_pretrained(path), checkpoint.load_diffusion(path)
    kept: list[np.ndarray] = []
    generate(
        (unet, diffusion), columns, plan.sampler.name, plan.sampler.steps, seed,
        watch=lambda _, step: kept.append(backend.to_numpy(step.x)),
    )  # fmt: skip
    n = len(kept)
    shown = [n * (i + 1) // min(n, most) for i in range(min(n, most))]
    return {step: kept[step - 1] for step in shown}


def first_pictures(plan: Plan, system: System, seed: int) -> np.ndarray:
    """The first SHOWN pictures of a judged run, float32 in [-1, 1]."""
    with np.load(directory(plan, system, seed) / PICTURES) as file:
        return to_float(file["images"])

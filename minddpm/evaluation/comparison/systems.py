"""DDPM, GAN and VAE with one interface: a training loop, and samples from a trained run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import minddpm
from minddpm.baselines.gan.model import Discriminator, Generator
from minddpm.baselines.gan.training import GANLoop, GANOptions
from minddpm.baselines.sampling import load_baseline, sample_baseline
from minddpm.baselines.vae.model import VAE
from minddpm.baselines.vae.training import VAELoop, VAEOptions
from minddpm.data import ImageDataset
from minddpm.diffusion.scheduler_file import load_diffusion
from minddpm.generate import generate, spacing
from minddpm.training.ddpm import Trainer, TrainingOptions
from minddpm.training.loop import Loop
from minddpm.training.options import LoopOptions
from minddpm.training.recipe import DIGITS
from minddpm.training.run_directory import RunDirectory

# For all trainings: with a constant learning rate, the quality of the last weights varies.
COOLDOWN = 0.25


@dataclass(frozen=True)
class Sampler:
    """The sampler of the DDPM and its number of steps."""

    name: str = "dpm_solver_sde"
    steps: int = 20


class System:
    """One of the compared systems.

    slides_steps, slides_ms: steps and milliseconds per step stated in the lecture slides.
    """

    name: str
    slides_steps: int
    slides_ms: str
    curves: dict[str, str]  # label -> column of loss.csv

    def options(self, steps: int, seed: int) -> LoopOptions:
        raise NotImplementedError

    def loop(self, dataset: ImageDataset, run: RunDirectory, options: LoopOptions) -> Loop:
        """Return a new training loop, with the initial weights of options.seed."""
        raise NotImplementedError

    def sample(self, run: Path, count: int, seed: int, sampler: Sampler) -> np.ndarray:
        """Return samples drawn with a run's averaged weights, float32 [count, H, W, C]."""
        model = load_baseline(run)
        assert model is not None, run
        return sample_baseline(model, count, seed)

    def describe_sampling(self, sampler: Sampler) -> dict[str, Any]:
        """Return the sampler and its settings, for the protocol."""
        return {"sampler": "one pass", "steps": 1}


class DDPM(System):
    name, T = "DDPM", 1000
    slides_steps, slides_ms = 10 * 1000, "300"
    curves = {"all t": "loss", "t in quarter 1": "loss_q1", "t in quarter 4": "loss_q4"}  # noqa: RUF012

    def options(self, steps: int, seed: int) -> TrainingOptions:
        changes = {"cooldown": COOLDOWN, "class_conditional": False}  # the others know no classes
        return replace(DIGITS.options, steps=steps, seed=seed, **changes)

    def loop(self, dataset: ImageDataset, run: RunDirectory, options: LoopOptions) -> Trainer:
        return DIGITS._replace(options=options).trainer(dataset, run, self.T)

    def sample(self, run: Path, count: int, seed: int, sampler: Sampler) -> np.ndarray:
        unet, diffusion = minddpm.UNet2D.from_pretrained(run), load_diffusion(run)
        return generate((unet, diffusion), count, sampler.name, sampler.steps, seed, batch_size=125)

    def describe_sampling(self, sampler: Sampler) -> dict[str, Any]:
        return {
            "sampler": sampler.name, "steps": sampler.steps, "spacing": spacing(sampler.name)
        }  # fmt: skip


class GAN(System):
    name = "GAN"
    slides_steps, slides_ms = 30 * 550, "60"
    curves = {"generator": "loss_generator", "discriminator": "loss_discriminator"}  # noqa: RUF012

    def options(self, steps: int, seed: int) -> GANOptions:
        return GANOptions(steps=steps, seed=seed, cooldown=COOLDOWN)

    def loop(self, dataset: ImageDataset, run: RunDirectory, options: LoopOptions) -> GANLoop:
        minddpm.manual_seed(options.seed)
        return GANLoop(Generator(), Discriminator(), dataset, run, options)


class VariationalAutoencoder(System):
    slides_ms = "30-50"
    curves = {"reconstruction": "reconstruction", "KL": "kl"}  # noqa: RUF012

    def __init__(self, name: str = "VAE", epochs: int = 30):
        self.name, self.slides_steps = name, epochs * 547

    def options(self, steps: int, seed: int) -> VAEOptions:
        return VAEOptions(steps=steps, seed=seed, cooldown=COOLDOWN)

    def loop(self, dataset: ImageDataset, run: RunDirectory, options: LoopOptions) -> VAELoop:
        minddpm.manual_seed(options.seed)
        return VAELoop(VAE(), dataset, run, options)


SYSTEMS = (DDPM(), GAN(), VariationalAutoencoder())
SLIDES = (DDPM(), GAN(), *(VariationalAutoencoder(f"VAE-{n}", n) for n in (10, 30, 70)))

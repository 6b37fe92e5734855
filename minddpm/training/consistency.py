"""Tuning a trained model into a consistency model: one step or a few (Geng et al. 2024).

A diffusion model predicts the mean of all images that x_t may come from. The tuned one predicts one
image, the same at every t of a path. Its target is its own prediction with less noise. In the first
stages most targets are the training images themselves, as in the training before; each stage halves
the distance between t and r, where the target is looked up (diffusion/consistency.py).
"""

from dataclasses import dataclass

import numpy as np

from minddpm import random
from minddpm.data import ImageDataset
from minddpm.diffusion.consistency import consistency_target, less_noise
from minddpm.diffusion.draw_t import draw_by_log_snr
from minddpm.diffusion.reverse import Sampling
from minddpm.diffusion.sampling import Guided, timesteps
from minddpm.errors import InputError
from minddpm.pipeline import Pipeline
from minddpm.replay import replayed
from minddpm.training.run_directory import RunDirectory
from minddpm.training.student import Student, StudentBatch, StudentOptions


@dataclass(frozen=True)
class ConsistencyOptions(StudentOptions):
    """Options of a consistency tuning. The learning rate falls to zero from the first step on."""

    steps_per_stage: int = 400
    sampling_steps: int = 2
    warmup_steps: int = 0
    cooldown: float = 1.0

    @property
    def stages(self) -> int:
        """Return the number of stages: in the last, r is 1/64 of the way below t."""
        return 6


class ConsistencyTuner(Student):
    """Tunes a copy of `teacher` until its pred_x0 is an image, and stores the run in `run`."""

    def __init__(
        self, teacher: Pipeline, dataset: ImageDataset, run: RunDirectory,
        options: ConsistencyOptions,
    ):  # fmt: skip
        T, S = teacher.diffusion.T, options.sampling_steps
        if timesteps(T, S, "upper")[-1] < 0.95 * T - 1 or S == T:
            raise InputError(
                f"{S} sampling steps of a model with T = {T} would not begin near T: choose fewer."
            )
        sampling = Sampling("consistency", {}, options.sampling_steps)
        super().__init__(teacher, dataset, run, options, sampling)
        # The same weights, without dropout: the target is what a sampler would get.
        self.frozen = self.unet.with_same_weights().eval()
        self.replayed = replayed(self.frozen)

    def _batch(self, step: int) -> StudentBatch:
        """Draw images, t and noise, and compute what the model sees in them with less noise."""
        x0, t, labels, _ = super()._batch(step)
        stream = self.options.seed, random.NOISE, step, self.rows.start * x0[0].size
        x_t, noise = self.diffusion.q_sample_normal(x0, t, *stream)
        stage = step // self.options.steps_per_stage
        r = less_noise(self.diffusion.alphas_cumprod, t, stage)
        model = self.replayed
        if labels is not None:
            model = Guided(self.frozen, labels, 1.0, model)
        target = consistency_target(self.diffusion, model, x_t, x0, noise, t, r)
        return StudentBatch(x_t, *target, t, labels)

    def _draw_t(self, N: int, step: int) -> tuple[np.ndarray, None]:
        """Return t [N], drawn by log SNR, so that a digit's shape gets most of the steps."""
        return draw_by_log_snr(self.diffusion.alphas_cumprod, N, self.options.seed, step), None

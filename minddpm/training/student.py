"""What the two distillations share: a student that starts with the weights of a trained model."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minddpm import backend
from minddpm.data import ImageDataset
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.reverse import Sampling
from minddpm.errors import InputError
from minddpm.models import UNet2D
from minddpm.pipeline import Pipeline
from minddpm.training.ddpm import Trainer
from minddpm.training.options import TrainingOptions
from minddpm.training.run_directory import RunDirectory


@dataclass(frozen=True)
class StudentOptions(TrainingOptions):
    """Options of a training in stages; `steps` follows from them."""

    steps_per_stage: int = 400
    sampling_steps: int = 4
    optimizer: str = "muon"
    lr: float = 5e-4
    ema_decay: float = 0.99
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        for name in ("steps_per_stage", "sampling_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: choose at least 1.")
        object.__setattr__(self, "steps", self.stages * self.steps_per_stage)
        super().__post_init__()

    @property
    def stages(self) -> int:
        """Return the number of stages."""
        raise NotImplementedError


class StudentBatch(NamedTuple):
    """What a step computes with: x_t, the x0 and eps that the student has to predict, t, labels."""

    x_t: backend.Array
    x0: backend.Array
    eps: backend.Array
    t: np.ndarray
    labels: np.ndarray | None


def copy_weights(source: UNet2D, to: UNet2D) -> None:
    """Copy the weights of a model into another one of the same configuration."""
    for p, q in zip(to.parameters(), source.parameters(), strict=True):
        p.data = q.data


class Student(Trainer):
    """Trains a copy of `teacher` whose samples need few steps, those of `sampling`.

    The student predicts v, whatever the teacher predicts: at t = T-1 nothing of the image is left
    in x_t, so that its noise says nothing about the image. A teacher of epsilon or x0 gives only
    the initial weights; the first stage then learns another output, too, and needs more steps.
    """

    def __init__(
        self, teacher: Pipeline, dataset: ImageDataset, run: RunDirectory, options: StudentOptions,
        sampling: Sampling,
    ):  # fmt: skip
        first = teacher.diffusion
        if first.variance == "learned_range":
            raise InputError(
                "the model has a learned variance, but a few steps have none: distil a model that "
                "was trained with another --variance."
            )
        student = UNet2D(**teacher.unet.config)
        copy_weights(teacher.unet, student)
        # Not clipped: a target may lie outside of -1 .. 1.
        process = GaussianDiffusion(first.betas, "v", clip_x0=False)
        process.sampling = sampling
        super().__init__(student, process, dataset, run, options)

    def _part_gradients(
        self, step: int, first: int, x_t: backend.Array, x0: backend.Array, eps: backend.Array,
        t: np.ndarray, labels: np.ndarray | None,
    ) -> backend.Array:  # fmt: skip
        """Compute the gradients of images first, first + 1, ... of a batch; return the losses [N].

        The loss is L_simple of v with the target's x0 and eps. Since v = (alpha x_t - x0) / sigma,
        it is the error of x0 with the weight 1 / sigma^2 = SNR + 1.
        """
        return self._backward(step, first, x_t, x0, eps, t, labels)

"""Progressive distillation of a trained model into a few DDIM steps (Salimans and Ho 2022).

Each stage trains a student, which starts as a copy of its teacher, to make in one step what the
teacher makes in two. The student is then the teacher of the next stage. All stages are one run with
one checkpoint, which holds the teacher, too: a run resumes in the stage in which it ended.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minddpm import backend, nn, random
from minddpm.data import ImageDataset
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.distillation import distillation_target, two_steps
from minddpm.diffusion.sampling import Guided
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.diffusion.scheduler_file import few_steps
from minddpm.errors import InputError
from minddpm.models import UNet2D
from minddpm.pipeline import Pipeline, save_pipeline
from minddpm.replay import replayed
from minddpm.training.ddpm import StepRecord, Trainer
from minddpm.training.loop import State
from minddpm.training.options import TrainingOptions
from minddpm.training.run_directory import RunDirectory


@dataclass(frozen=True)
class DistillationOptions(TrainingOptions):
    """Options of a distillation from teacher_steps to sampling_steps; `steps` follows from them."""

    steps_per_stage: int = 400
    teacher_steps: int = 16
    sampling_steps: int = 4
    guidance: float = 1.0
    lr: float = 5e-4
    ema_decay: float = 0.99
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        first, last = self.teacher_steps, self.sampling_steps
        if last < 1 or first <= last or first not in (last * 2**i for i in range(21)):
            raise InputError(
                f"{first} steps of the teacher cannot be halved to {last}: choose --teacher-steps "
                "2, 4, 8, ... times --sampling-steps."
            )
        if self.steps_per_stage < 1:
            raise InputError(f"steps_per_stage={self.steps_per_stage}: choose at least 1.")
        object.__setattr__(self, "steps", self.stages * self.steps_per_stage)
        super().__post_init__()

    @property
    def stages(self) -> int:
        """Return how often the number of sampling steps is halved."""
        return (self.teacher_steps // self.sampling_steps).bit_length() - 1

    def student_steps(self, step: int) -> int:
        """Return the number of sampling steps that the student learns at this training step."""
        return self.teacher_steps // 2 ** (step // self.steps_per_stage + 1)

    def learning_rate(self, lr: float, step: int) -> float:
        """Return the learning rate at step 0, 1, ...: it falls to zero in each stage."""
        return lr * nn.cooldown(step % self.steps_per_stage, self.steps_per_stage, 0)


class DistillationBatch(NamedTuple):
    """What a step computes with: x_t, the x0 and eps that the student has to predict, t, labels."""

    x_t: backend.Array
    x0: backend.Array
    eps: backend.Array
    t: np.ndarray
    labels: np.ndarray | None


def check_teacher(diffusion: GaussianDiffusion, options: DistillationOptions) -> None:
    """Raise InputError unless a model of this process can be distilled into these steps."""
    T, steps = diffusion.T, options.sampling_steps
    if diffusion.variance == "learned_range":
        raise InputError(
            "the model has a learned variance, but DDIM's steps have none: distil a model that was "
            "trained with another --variance."
        )
    if T % steps or options.teacher_steps > T:
        raise InputError(
            f"{options.teacher_steps} and {steps} sampling steps of a model with T = {T}: choose "
            f"at most {T} steps of the teacher, and a divisor of {T} for the student."
        )


def _copy_weights(source: UNet2D, to: UNet2D) -> None:
    for p, q in zip(to.parameters(), source.parameters(), strict=True):
        p.data = q.data


class Distiller(Trainer):
    """Distils `teacher` into options.sampling_steps and stores the run in `run`.

    The student predicts v, whatever the teacher predicts: at t = T-1 nothing of the image is left
    in x_t, so that its noise says nothing about the image. A teacher of epsilon or x0 gives only
    the initial weights; the first stage then learns another output, too, and needs more steps.
    """

    def __init__(
        self, teacher: Pipeline, dataset: ImageDataset, run: RunDirectory,
        options: DistillationOptions,
    ):  # fmt: skip
        first = teacher.diffusion
        check_teacher(first, options)
        student = UNet2D(**teacher.unet.config)
        _copy_weights(teacher.unet, student)
        # Not clipped: a target lies outside of -1 .. 1 where the teacher's two steps disagree.
        process = GaussianDiffusion(first.betas, "v", clip_x0=False)
        process.sampling = few_steps(options.sampling_steps)
        super().__init__(student, process, dataset, run, options)
        self.first_process, self.teacher = first, teacher.unet.eval()
        self.replayed_teacher, self.teacher_derived = replayed(self.teacher), {}

    def train_step(self) -> StepRecord:
        """Do one step of algorithm 2; the first one of a stage replaces the teacher."""
        if self.step % self.options.steps_per_stage == 0:
            self._begin_stage()
        return super().train_step()

    def _begin_stage(self) -> None:
        """Make the averaged student the teacher, and a copy of it the student."""
        optimizer = self.optimizer
        # What was derived from the old weights is then forgotten.
        self.teacher_derived = {}
        optimizer.flat.data[...] = self.ema.average
        _copy_weights(self.unet, self.teacher)
        optimizer.m[...], optimizer.v[...], optimizer.steps = 0, 0, 0

    def _batch(self, step: int) -> DistillationBatch:
        """Draw images, t and noise, and compute what the teacher makes of them."""
        x0, t, labels, _ = super()._batch(step)
        stream = self.options.seed, random.NOISE, step, self.rows.start * x0[0].size
        x_t, _ = self.diffusion.q_sample_normal(x0, t, *stream)
        first_stage = step < self.options.steps_per_stage
        process = self.first_process if first_stage else self.diffusion
        teacher = self.replayed_teacher
        if labels is not None:  # the first student learns the guided model: Meng et al. 2023
            guidance = self.options.guidance if first_stage else 1.0
            teacher = Guided(self.teacher, labels, guidance, teacher)
        ends = two_steps(process.T, self.options.student_steps(step), t)
        with backend.kernels.constant_weights(self.teacher_derived):
            target = distillation_target(process, teacher, x_t, t, *ends)
        return DistillationBatch(x_t, *target, t, labels)

    def _draw_t(self, N: int, step: int) -> tuple[np.ndarray, None]:
        """Return t [N], drawn uniformly from the timesteps of the student."""
        visited = timesteps(self.diffusion.T, self.options.student_steps(step), "trailing")
        drawn = random.integers(len(visited), N, self.options.seed, random.TIMESTEP, step)
        return visited[drawn], None

    def _part_gradients(
        self, step: int, first: int, x_t: backend.Array, x0: backend.Array, eps: backend.Array,
        t: np.ndarray, labels: np.ndarray | None,
    ) -> backend.Array:  # fmt: skip
        """Compute the gradients of images first, first + 1, ... of a batch; return the losses [N].

        The loss is L_simple of v with the teacher's x0 and eps. Since v = (alpha x_t - x0) / sigma,
        it is the error of x0 with the weight 1 / sigma^2 = SNR + 1, one of the paper's two.
        """
        return self._backward(step, first, x_t, x0, eps, t, labels)

    # --- checkpoints -----------------------------------------------------------------------------

    def state(self) -> State:
        """Return the state of the student, and the weights of its teacher."""
        teacher = {name: p.data for name, p in self.teacher.named_parameters()}
        return super().state() | {"teacher": teacher}

    def resumed(self) -> None:
        """Continue Adam's bias correction at the resumed step of the stage."""
        self.optimizer.steps = self.step % self.options.steps_per_stage

    def export(self) -> None:
        """Write the diffusers pipeline with the averaged weights, if this is the last stage."""
        if self.step > self.options.steps - self.options.steps_per_stage:
            with self.ema.applied():
                save_pipeline(self.unet, self.diffusion, self.run.path)

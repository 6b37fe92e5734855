"""Progressive distillation of a trained model into a few DDIM steps (Salimans and Ho 2022).

Each stage trains a student, which starts as a copy of its teacher, to make in one step what the
teacher makes in two. The student is then the teacher of the next stage. All stages are one run with
one checkpoint, which holds the teacher, too: a run resumes in the stage in which it ended.
"""

from dataclasses import dataclass

import numpy as np

from minddpm import backend, nn, random
from minddpm.data import ImageDataset
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.distillation import distillation_target, two_steps
from minddpm.diffusion.sampling import Guided
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.diffusion.scheduler_file import few_steps
from minddpm.errors import InputError
from minddpm.pipeline import Pipeline, save_pipeline
from minddpm.replay import replayed
from minddpm.training.ddpm import StepRecord
from minddpm.training.loop import State
from minddpm.training.run_directory import RunDirectory
from minddpm.training.student import Student, StudentBatch, StudentOptions, copy_weights


@dataclass(frozen=True)
class DistillationOptions(StudentOptions):
    """Options of a distillation from teacher_steps to sampling_steps."""

    teacher_steps: int = 16
    guidance: float = 1.0

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        first, last = self.teacher_steps, self.sampling_steps
        if last < 1 or first <= last or first not in (last * 2**i for i in range(21)):
            raise InputError(
                f"{first} steps of the teacher cannot be halved to {last}: choose --teacher-steps "
                "2, 4, 8, ... times --sampling-steps."
            )
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


def check_teacher(diffusion: GaussianDiffusion, options: DistillationOptions) -> None:
    """Raise InputError unless a model of this process can be distilled into these steps."""
    T, steps = diffusion.T, options.sampling_steps
    if T % steps or options.teacher_steps > T:
        raise InputError(
            f"{options.teacher_steps} and {steps} sampling steps of a model with T = {T}: choose "
            f"at most {T} steps of the teacher, and a divisor of {T} for the student."
        )


class Distiller(Student):
    """Distils `teacher` into options.sampling_steps and stores the run in `run`."""

    def __init__(
        self, teacher: Pipeline, dataset: ImageDataset, run: RunDirectory,
        options: DistillationOptions,
    ):  # fmt: skip
        check_teacher(teacher.diffusion, options)
        super().__init__(teacher, dataset, run, options, few_steps(options.sampling_steps))
        self.first_process, self.teacher = teacher.diffusion, teacher.unet.eval()
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
        copy_weights(self.unet, self.teacher)
        optimizer.m[...], optimizer.v[...], optimizer.steps = 0, 0, 0

    def _batch(self, step: int) -> StudentBatch:
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
        return StudentBatch(x_t, *target, t, labels)

    def _draw_t(self, N: int, step: int) -> tuple[np.ndarray, None]:
        """Return t [N], drawn uniformly from the timesteps of the student."""
        visited = timesteps(self.diffusion.T, self.options.student_steps(step), "trailing")
        drawn = random.integers(len(visited), N, self.options.seed, random.TIMESTEP, step)
        return visited[drawn], None

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

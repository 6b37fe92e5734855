"""Training a DDPM: Ho et al. 2020, algorithm 1, with what makes it converge and survive."""

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from minddpm import backend, nn, random
from minddpm.data import ImageDataset, batch_indices, to_float
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.forward import Model
from minddpm.errors import InputError
from minddpm.models import UNet2D
from minddpm.pipeline import save_pipeline
from minddpm.training.importance import ImportanceSampler
from minddpm.training.loop import (
    Loop,
    State,
    TrainingDivergedError,
    mean_norms,
    optimizer_state,
    to_table,
)
from minddpm.training.loss_scale import LossScale
from minddpm.training.options import TrainingOptions as TrainingOptions
from minddpm.training.run_directory import LOSS_COLUMNS, RunDirectory


class StepRecord(NamedTuple):
    """What a step leaves for the log: its number, losses [N], t [N], squared gradient length.

    losses (weighed, where t was drawn by importance) and squared_norm are arrays of the backend:
    reading them waits for the device.
    """

    step: int
    losses: backend.Array
    t: np.ndarray
    squared_norm: backend.Array


def check_classes(unet: UNet2D, dataset: ImageDataset) -> None:
    """Raise InputError unless the images have classes and the model one more, for none."""
    if dataset.labels is None:
        raise InputError(
            f"{dataset.source}: the images have no labels to train with: leave out "
            "--class-conditional."
        )
    most = int(dataset.labels.max())
    if most >= unet.num_classes:
        raise InputError(
            f"{dataset.source} has labels up to {most}, and the model knows {unet.num_classes} "
            f"classes: give it num_class_embeds={most + 2}, one more for none."
        )


class Trainer(Loop):
    """Trains `unet` on `dataset` and keeps the run in `run`.

    A step is a pure function of (seed, step, weights, moments): which images, which t, which noise
    and which dropout masks all come from the counter-based generator. So a resumed run needs
    nothing but the step and the arrays, and N + N steps are bit for bit 2N steps. (With importance
    sampling the latest losses of each t are among them.)
    """

    columns = LOSS_COLUMNS[1:]
    optional = ("loss_scale",)

    def __init__(
        self,
        unet: UNet2D,
        diffusion: GaussianDiffusion,
        dataset: ImageDataset,
        run: RunDirectory,
        options: TrainingOptions,
    ):
        super().__init__(dataset, run, options)
        self.unet, self.diffusion = unet, diffusion
        if diffusion.variance == "learned_range" and options.loss == "simple":
            raise InputError(
                "loss simple teaches the mean alone, and variance learned_range would stay as it "
                "began: choose --loss hybrid or vlb, or another --variance."
            )
        if options.class_conditional:
            check_classes(unet, dataset)
        self.optimizer = nn.Adam(
            unet.parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        self.ema = nn.EMA(self.optimizer.flat, options.ema_decay)
        self.importance = ImportanceSampler(diffusion.T) if options.importance_sampling else None
        self.loss_scale = LossScale(options.batch_size * dataset.images[0].size)

    # --- one step --------------------------------------------------------------------------------

    def train_step(self) -> StepRecord:
        """One step of algorithm 1. Nothing is waited for: what it gives lies on the device.

        Where the gradient is not finite, the weights stay as they were; train() finds it in the
        record when it writes the next row of the log, and ends there, unless it was half that
        overflowed: then the steps after it have a smaller scale of the loss. (Importance sampling
        waits: it looks at the losses before it draws the next t.)
        """
        options, step = self.options, self.step
        losses, t, weights = self._backward(step)
        self.optimizer.lr = options.learning_rate(options.lr, step)
        squared_norm = self.optimizer.step(options.clip_norm, self.ema)
        self.optimizer.zero_grad()
        self.loss_scale.update(squared_norm)
        if self.importance is not None:
            self.importance.update(t, backend.to_numpy(losses) / weights)
        self.step += 1
        return StepRecord(step, losses, t, squared_norm)

    def _backward(self, step: int) -> tuple[backend.Array, np.ndarray, np.ndarray | None]:
        """The gradients of a step's batch; its losses [N], weighed, their t [N] and weights [N]."""
        options = self.options
        random.manual_seed(options.seed, step)  # for dropout
        chosen = batch_indices(len(self.dataset.images), options.batch_size, step, options.seed)
        # CuPy copies it by way of pinned memory of its own, and waits for nothing.
        x0 = backend.xp.asarray(to_float(self.dataset.images[chosen]))
        t, weights = self._draw_t(len(x0), step)
        x_t, noise = self.diffusion.q_sample_normal(x0, t, options.seed, random.NOISE, step)
        model = self._model(chosen, step)
        losses = self.diffusion.training_losses(model, x0, t, noise, options.loss, x_t)
        if weights is not None:
            losses = losses * backend.xp.asarray(weights)
        self.loss_scale.backward(losses.mean(), self.optimizer.flat.grad)
        return losses.data, t, weights

    def _model(self, chosen: np.ndarray, step: int) -> Model:
        """The UNet, told the classes of these images, if it has any: some of them are left out.

        Without a class for one in ten it learns the pictures of all classes, too, against which
        guidance compares (Ho and Salimans 2022, algorithm 1).
        """
        if not self.options.class_conditional:
            return self.unet
        labels, none = self.dataset.labels[chosen], self.unet.num_classes
        u = random.bits(len(labels), self.options.seed, random.LABEL, step) * 2.0**-32
        labels = np.where(u < self.options.label_dropout, none, labels)
        return partial(self.unet, class_labels=labels)

    def _draw_t(self, N: int, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The t [N] of a step, and the weights of their losses where they are not drawn evenly."""
        seed = self.options.seed
        if self.importance is not None:
            return self.importance.draw(N, seed, step)
        return random.integers(self.diffusion.T, N, seed, random.TIMESTEP, step), None

    def _diagnose(self, step: int, loss: float) -> str:
        """What went wrong in a step that is over: its gradients are made once more."""
        self.loss_scale.scale[...] = 1  # nothing that a large one broke
        self._backward(step)

        def broken(array: backend.Array) -> bool:
            return not math.isfinite(backend.kernels.squared_norm(array.reshape(-1)).item())

        named = list(self.unet.named_parameters())
        weights = [name for name, p in named if broken(p.data)]
        # Gradients flow from the output back, so the last one in order is nearest to the fault.
        gradients = [name for name, p in named if broken(p.grad)]
        if weights:
            where = f"the weight {weights[0]} is not finite"
        elif gradients:
            where = f"{len(gradients)} gradients are not finite, nearest the output {gradients[-1]}"
        else:
            where = "all weights and gradients are finite"
        self.optimizer.zero_grad()
        return (
            f"training diverged at step {step}: the loss is {loss:.4g}, {where}. "
            f"What {self.run.path} held before is whole; begin a new run with a smaller --lr than "
            f"{self.options.lr:g}."
        )

    def gradients(self) -> None:
        """The gradients of the first batch, once; afterwards they are zero again."""
        self._backward(0)
        backend.to_numpy(self.optimizer.squared_norm())  # a device returns before it is done
        self.optimizer.zero_grad()

    # --- the log ---------------------------------------------------------------------------------

    def train(self, progress: bool = True) -> bool:
        """Loop.train, with dropout on."""
        self.unet.train()
        return super().train(progress)

    def row(self, records: list[StepRecord]) -> dict[str, float]:
        """Averages since the last row of the log, also per quartile of t (nan without any).

        The loss of a step depends on its t far more than on the weights: at small t the noise is
        hard to see. So the whole average jumps about, and the quartiles tell where a model still
        improves. Even they are no measure of quality: in one public CIFAR-10 run FID went from 9.2
        to 3.2 while the loss moved from .0295 to .0277. Look at the samples. grad_norm is that of
        the steps in which half did not overflow.
        """
        table = to_table([(r.losses, r.squared_norm) for r in records])
        losses = table[:, :-1].astype(np.float32)
        decisive = losses if self.loss_scale.mends_overflow() else table
        good = np.isfinite(decisive).all(axis=1)
        if not good.all():
            first = int(np.argmin(good))
            raise TrainingDivergedError(
                self._diagnose(records[first].step, float(losses[first].mean()))
            )
        quartiles = 4 * np.stack([r.t for r in records]) // self.diffusion.T
        row = {"loss": float(losses.mean())}
        for q in range(4):
            mine = losses[quartiles == q]
            row[f"loss_q{q + 1}"] = float(mine.mean()) if len(mine) else math.nan
        return row | {"grad_norm": mean_norms(table[:, -1:])[0], "lr": self.optimizer.lr}

    # --- checkpoints -----------------------------------------------------------------------------

    def state(self) -> State:
        """Weights, averages, moments, what importance sampling remembers, the loss scale."""
        state = optimizer_state(self.unet, self.optimizer, self.ema)
        if self.importance is not None:
            state["importance"] = {"losses": self.importance.losses}
        return state | self.loss_scale.state()

    def resumed(self) -> None:
        """Adam's bias correction goes on where it was."""
        self.optimizer.steps = self.step

    def export(self) -> None:
        """Write the diffusers pipeline with the averaged weights."""
        with self.ema.applied():
            save_pipeline(self.unet, self.diffusion, self.run.path)

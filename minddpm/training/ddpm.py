"""Training a DDPM: Ho et al. 2020, Algorithm 1, with warm-up, clipping, EMA and checkpoints."""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from minddpm import backend, nn, random
from minddpm.data import ImageDataset, batch_indices, to_float
from minddpm.data.prefetch import Prefetched
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.draw_t import draw_by_log_snr, independent, low_discrepancy
from minddpm.errors import InputError
from minddpm.models import UNet2D
from minddpm.pipeline import save_pipeline
from minddpm.replay import ReplayedStep, replayed_training
from minddpm.training.buckets import Buckets
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
from minddpm.training.options import OPTIMIZERS, TrainingOptions
from minddpm.training.run_directory import LOSS_COLUMNS, RunDirectory


class Batch(NamedTuple):
    """What a step computes with: images x0 [N, H, W, C], t [N], classes and weights of the losses.

    labels int64 [N], None without classes; weights [N], None if they are 1.
    """

    x0: backend.Array
    t: np.ndarray
    labels: np.ndarray | None
    weights: np.ndarray | None


class StepRecord(NamedTuple):
    """What the log needs of a step: its number, losses [N], t [N], squared norm of the gradient.

    losses (weighted, if t was drawn by importance) and squared_norm are arrays of the backend:
    reading them synchronises.
    """

    step: int
    losses: backend.Array
    t: np.ndarray
    squared_norm: backend.Array


def check_classes(unet: UNet2D, dataset: ImageDataset) -> None:
    """Raise InputError unless the images have labels that the model knows."""
    if dataset.labels is None:
        raise InputError(
            f"{dataset.source}: the images have no labels; leave out --class-conditional."
        )
    largest = int(dataset.labels.max())
    if largest >= unet.num_classes:
        raise InputError(
            f"{dataset.source} has labels up to {largest}, but the model knows {unet.num_classes} "
            f"classes: give it num_class_embeds={largest + 2}, one of them for no class."
        )


class Trainer(Loop):
    """Trains `unet` on `dataset` and stores the run in `run`.

    A step is a pure function of (seed, step, weights, moments): images, t, noise and dropout masks
    all come from the counter-based generator. A resumed run therefore needs only the step number
    and the arrays, and N + N steps are bit-equal to 2N steps. (With importance sampling the arrays
    include the latest losses of each t.)

    options.batch_size is the whole batch, of which each rank (parallel.py) computes its rows, in
    options.accumulate parts. Every part gets the numbers that its images have in the whole batch.
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
                "loss simple trains the mean alone, so variance learned_range would keep its "
                "initial values: choose --loss hybrid or vlb, or another --variance."
            )
        self.uses_labels = options.class_conditional
        if self.uses_labels:
            check_classes(unet, dataset)
        self.in_ranks = self.world.size > 1
        parameters = unet.in_backward_order() if self.in_ranks else unet.parameters()
        self.optimizer = OPTIMIZERS[options.optimizer](
            parameters, lr=options.lr, weight_decay=options.weight_decay
        )
        self.buckets = Buckets(self.optimizer.flat, self.world)
        self.model = replayed_training(unet, self.optimizer.flat)
        self.ema = nn.EMA(self.optimizer.flat, options.ema_decay)
        self.importance = ImportanceSampler(diffusion.T) if options.importance_sampling else None
        self.loss_scale = LossScale(options.batch_size * dataset.images[0].size)
        self.changed = (*self.optimizer.arrays(self.ema), *self.loss_scale.arrays())
        # The sums over ranks are not recorded.
        count = len(self.buckets) + 2 if self.in_ranks else 1
        self.replay = ReplayedStep(unet, self.changed, count)
        parts = self.world.size * options.accumulate
        if options.batch_size % parts:
            raise InputError(
                f"{options.batch_size} images per step cannot be divided into {parts} equal parts "
                f"(ranks: {self.world.size}, --accumulate {options.accumulate}): choose another "
                "--batch-size, --accumulate or number of ranks."
            )
        self.part_size = options.batch_size // parts  # images of a forward and backward
        rows = self.rows = self.world.part(options.batch_size)  # of a batch: those of this rank
        # No method of self: the run is locked until nothing refers to this object (lock.py).
        indices = partial(batch_indices, len(dataset), options.batch_size, seed=options.seed)
        self.read = Prefetched(
            lambda step: indices(step)[rows], dataset.pixels, ahead=dataset.mapping is not None
        )

    # --- one step --------------------------------------------------------------------------------

    def train_step(self) -> StepRecord:
        """Do one step of Algorithm 1. Does not synchronise; results stay on the device.

        If the gradient is not finite, the weights do not change. train() notices it in the record
        when it writes the next row of the log, and raises, unless half precision overflowed: then
        the next steps have a smaller loss scale. (Importance sampling does synchronise: it reads
        the losses before it draws the next t.)
        """
        options, step, optimizer = self.options, self.step, self.optimizer
        optimizer.lr = options.learning_rate(options.lr, step)
        batch = self._batch(step)
        *losses, squared_norm = self._replayed(step, batch)
        losses = losses[0] if len(losses) == 1 else backend.xp.concatenate(losses)
        optimizer.steps += 1
        if self.importance is not None:
            unweighted = backend.to_numpy(losses) / batch.weights
            self.importance.update(*map(self.world.gather, (batch.t, unweighted)))
        self.step += 1
        return StepRecord(step, losses, batch.t, squared_norm)

    def _replayed(self, step: int, batch: Batch) -> tuple[backend.Array, ...]:
        """Return what _compute returns, computed by all ranks together."""
        numbers = self.optimizer.numbers(self.ema)
        if not self.in_ranks:
            return self.replay(self._compute, step, *batch, *numbers)
        losses = self.replay(self._gradients, step, *batch)
        self.buckets.sum(partial(self.replay.then, self.buckets.complete, step))
        return *losses, self.replay.then(self._update, step, *numbers)

    def _batch(self, step: int) -> Batch:
        """Draw what a step computes with, but for its noise: this rank's rows of the batch."""
        options, N, rows = self.options, self.options.batch_size, self.rows
        # line 2: x0 ~ q(x0). CuPy copies asynchronously, through its own pinned memory.
        chosen, pixels = self.read(step)
        if options.flip:
            flipped = random.integers(2, N, options.seed, random.AUGMENT, step)[rows] == 1
            pixels[flipped] = pixels[flipped, :, ::-1]
        x0 = backend.xp.asarray(to_float(pixels))
        # line 3: t
        t, weights = self._draw_t(N, step)
        weights = None if weights is None else weights[rows]
        return Batch(x0, t[rows], self._draw_labels(chosen, step), weights)

    def _gradients(self, step: int, *batch: Any) -> tuple[backend.Array, ...]:
        """Add up the gradients of this rank's images, part by part; return each part's losses."""
        losses = []
        for first in range(0, self.rows.stop - self.rows.start, self.part_size):
            part = slice(first, first + self.part_size)
            inputs = (None if x is None else x[part] for x in batch)
            losses.append(self._part_gradients(step, self.rows.start + first, *inputs))
        if not self.in_ranks:
            self.loss_scale.unscale(self.optimizer.flat.grad)
        return tuple(losses)

    def _part_gradients(
        self, step: int, first: int, x0: backend.Array, t: np.ndarray, labels: np.ndarray | None,
        weights: np.ndarray | None,
    ) -> backend.Array:  # fmt: skip
        """Compute the gradients of images first, first + 1, ...; return their weighted losses [N].

        The lines are those of Algorithm 1, as in diffusion/algorithms.py.
        """
        # line 4: eps, and x_t in the same kernel
        stream = self.options.seed, random.NOISE, step, first * x0[0].size
        x_t, noise = self.diffusion.q_sample_normal(x0, t, *stream)
        return self._backward(step, first, x_t, x0, noise, t, labels, weights)

    def _backward(
        self, step: int, first: int, x_t: backend.Array, x0: backend.Array, noise: backend.Array,
        t: np.ndarray, labels: np.ndarray | None, weights: np.ndarray | None = None,
    ) -> backend.Array:  # fmt: skip
        """Compute the gradients for x_t, which x0 and noise make; return the losses [N]."""
        options = self.options
        random.manual_seed(options.seed, step, first)  # for dropout
        # line 5: the gradient of || eps - eps_theta(x_t, t) ||^2 (diffusion/losses.py)
        model = self.model if labels is None else partial(self.model, class_labels=labels)
        losses = self.diffusion.training_losses(model, x0, t, noise, options.loss, x_t)
        if weights is not None:
            losses = losses * backend.xp.asarray(weights)
        # losses.mean().backward(), scaled in half precision; the mean is that of the whole batch
        of_mean = backend.xp.full_like(losses.data, 1 / options.batch_size)
        if self.in_ranks and first + self.part_size == self.rows.stop:
            self.buckets.begin(self.loss_scale.scaled(losses), of_mean)  # _replayed goes on with it
        else:
            self.loss_scale.backward(losses, of_mean)
        return losses.data

    def _update(self, step: int, adam_step: Any, lr: Any, decay: Any) -> backend.Array:
        """Update the weights by the gradients, and set these to zero; return their squared norm."""
        if self.in_ranks:  # only now are all gradients complete
            self.loss_scale.unscale(self.optimizer.flat.grad)
        squared_norm = self.optimizer.update(adam_step, lr, decay, self.options.clip_norm, self.ema)
        self.loss_scale.update(squared_norm)
        self.optimizer.zero_grad()
        return squared_norm

    def _compute(self, step: int, *inputs: Any) -> tuple[backend.Array, ...]:
        """Compute a step from its batch and Adam's numbers; return losses and squared norm."""
        *batch, adam_step, lr, decay = inputs
        losses = self._gradients(step, *batch)
        return *losses, self._update(step, adam_step, lr, decay)

    def _draw_labels(self, chosen: np.ndarray, step: int) -> np.ndarray | None:
        """Return the classes of this rank's images, int64 [N]; None without classes.

        A share label_dropout of them, 0.1 by default, gets no class. The model thus learns the
        unconditional distribution, too, which guidance needs (Ho and Salimans 2022, Algorithm 1).
        """
        if not self.options.class_conditional:
            return None
        labels, no_class = self.dataset.labels[chosen], self.unet.num_classes
        u = random.bits(self.options.batch_size, self.options.seed, random.LABEL, step) * 2.0**-32
        dropped = u[self.rows] < self.options.label_dropout
        return np.where(dropped, no_class, labels).astype(np.int64)

    def _draw_t(self, N: int, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return t [N] and the weights of their losses [N], None if they are not weighted.

        The bound is a sum over all t, so the losses that have it are never drawn by log SNR.
        """
        seed, even = self.options.seed, self.options.draw_t == "low-discrepancy"
        if self.importance is not None:
            return self.importance.draw((low_discrepancy if even else independent)(N, seed, step))
        if even:
            return (low_discrepancy(N, seed, step) * self.diffusion.T).astype(np.int64), None
        if self.options.draw_t == "log-snr" and self.options.loss == "simple":
            return draw_by_log_snr(self.diffusion.alphas_cumprod, N, seed, step), None
        return random.integers(self.diffusion.T, N, seed, random.TIMESTEP, step), None

    def _diagnose(self, step: int, loss: float) -> str:
        """Compute the gradients of a diverged step again and return the error message."""
        self.loss_scale.scale[...] = 1  # so that no gradient overflows because of a large scale
        self._gradients(step, *self._batch(step))
        self.buckets.sum(self.buckets.complete)

        def not_finite(array: backend.Array) -> bool:
            return not math.isfinite(backend.kernels.squared_norm(array.reshape(-1)).item())

        named = list(self.unet.named_parameters())
        weights = [name for name, p in named if not_finite(p.data)]
        # Gradients flow from output to input, so the last one in order is nearest to the cause.
        gradients = [name for name, p in named if not_finite(p.grad)]
        if weights:
            cause = f"the weight {weights[0]} is not finite"
        elif gradients:
            cause = f"{len(gradients)} gradients are not finite, nearest the output {gradients[-1]}"
        else:
            cause = "all weights and gradients are finite"
        self.optimizer.zero_grad()
        return (
            f"training diverged at step {step}: the loss is {loss:.4g}, {cause}. "
            f"The last checkpoint in {self.run.path} is intact; start a new run with an --lr below "
            f"{self.options.lr:g}."
        )

    def trial(self) -> None:
        """Do the first step, then undo it. Synchronises."""
        before = [array.copy() for array in self.changed]
        try:
            self._replayed(0, self._batch(0))
        finally:
            for array, value in zip(self.changed, before, strict=True):
                array[...] = value
        backend.to_numpy(self.optimizer.squared_norm())  # copied to the host, to synchronise

    # --- the log ---------------------------------------------------------------------------------

    def train(self, progress: bool = True) -> bool:
        """Train as Loop.train does, with dropout on."""
        self.unet.train()
        return super().train(progress)

    def row(self, records: list[StepRecord]) -> dict[str, float]:
        """Return averages since the last row of the log, also per quartile of t (nan if empty).

        The loss of a step depends on its t far more than on the weights: at small t the noise is
        hard to see. The average over all t therefore fluctuates, and the quartiles show at which t
        a model still improves. Not even they measure quality: look at the samples. grad_norm leaves
        out the steps in which half precision overflowed.
        """
        table = to_table([(r.losses, r.squared_norm) for r in records])
        losses = self.world.gather(table[:, :-1].astype(np.float32), axis=1)
        norms = table[:, -1:]
        required = losses if self.loss_scale.may_recover() else np.hstack([losses, norms])
        finite = np.isfinite(required).all(axis=1)
        if not finite.all():
            first = int(np.argmin(finite))
            raise TrainingDivergedError(
                self._diagnose(records[first].step, float(losses[first].mean()))
            )
        t = self.world.gather(np.stack([r.t for r in records]), axis=1)
        quartiles = 4 * t // self.diffusion.T
        row = {"loss": float(losses.mean())}
        for q in range(4):
            selected = losses[quartiles == q]
            row[f"loss_q{q + 1}"] = float(selected.mean()) if len(selected) else math.nan
        return row | {"grad_norm": mean_norms(norms)[0], "lr": self.optimizer.lr}

    # --- checkpoints -----------------------------------------------------------------------------

    def state(self) -> State:
        """Return weights, averages, moments, the losses of importance sampling, the loss scale."""
        state = optimizer_state(self.unet, self.optimizer, self.ema)
        if self.importance is not None:
            state["importance"] = {"losses": self.importance.losses}
        return state | self.loss_scale.state()

    def resumed(self) -> None:
        """Continue Adam's bias correction at the resumed step."""
        self.optimizer.steps = self.step

    def export(self) -> None:
        """Write the diffusers pipeline with the averaged weights."""
        with self.ema.applied():
            save_pipeline(self.unet, self.diffusion, self.run.path)

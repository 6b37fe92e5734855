"""Train one model on one loss: Adam, learning rate, gradient clipping, averaged weights."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minddpm import backend, nn
from minddpm.autodiff import Tensor
from minddpm.backend import Array
from minddpm.data import ImageDataset, batch_indices
from minddpm.training.loop import Loop, State, check_finite, mean_norms, optimizer_state, to_table
from minddpm.training.loss_scale import LossScale
from minddpm.training.options import LoopOptions
from minddpm.training.run_directory import RunDirectory


class Record(NamedTuple):
    """Values of one step for the log: means of its quantities, and the squared gradient norm."""

    step: int
    means: list[Array]
    squared_norm: Array


class ModelLoop(Loop):
    """Trains `module` on the loss that a subclass computes in quantities()."""

    quantity_names: Sequence[str] = ("loss",)
    optional = ("loss_scale",)

    def __init__(
        self, module: nn.Module, dataset: ImageDataset, run: RunDirectory, options: LoopOptions
    ):
        super().__init__(dataset, run, options)
        self.module = module
        self.optimizer = nn.Adam(
            module.parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        self.ema = nn.EMA(self.optimizer.flat, options.ema_decay)
        self.loss_scale = LossScale(options.batch_size)
        self.columns = (*self.quantity_names, "grad_norm", "lr")

    def quantities(self, chosen: np.ndarray, step: int) -> tuple[Tensor | Array, ...]:
        """Return the loss, [N] or 0-d, of the images with indices `chosen`, then arrays to log."""
        raise NotImplementedError

    def train_step(self) -> Record:
        """Do one training step. Does not synchronise; results stay on the device."""
        options, step = self.options, self.step
        loss, *others = self._backward(step)
        self.optimizer.lr = options.learning_rate(options.lr, step)
        squared_norm = self.optimizer.step(options.clip_norm, self.ema)
        self.optimizer.zero_grad()
        self.loss_scale.update(squared_norm)
        self.step += 1
        return Record(step, [loss.data.mean(), *(x.mean() for x in others)], squared_norm)

    def _backward(self, step: int) -> tuple[Tensor | Array, ...]:
        """Compute the gradients of the batch of `step`, and return its quantities()."""
        options = self.options
        chosen = batch_indices(len(self.dataset), options.batch_size, step, options.seed)
        loss, *others = self.quantities(chosen, step)
        self.loss_scale.backward(loss.mean())
        self.loss_scale.unscale(self.optimizer.flat.grad)
        return loss, *others

    def trial(self) -> None:
        """Compute the gradients of the first batch, then set them to zero. Synchronises."""
        self._backward(0)
        backend.to_numpy(self.optimizer.squared_norm())  # copied to the host, to synchronise
        self.optimizer.zero_grad()

    def row(self, records: list[Record]) -> dict[str, float]:
        """Average the records. Raises TrainingDivergedError if a value is not finite."""
        table = to_table([(*r.means, r.squared_norm) for r in records])
        means, squared_norms = table[:, :-1], table[:, -1:]
        check_finite(means if self.loss_scale.may_recover() else table, records[0].step, self)
        numbers = (*means.mean(axis=0).tolist(), *mean_norms(squared_norms), self.optimizer.lr)
        return dict(zip(self.columns, numbers, strict=True))

    def state(self) -> State:
        """Return weights, averages, moments and the loss scale."""
        return optimizer_state(self.module, self.optimizer, self.ema) | self.loss_scale.state()

    def resumed(self) -> None:
        """Continue Adam's bias correction at the resumed step."""
        self.optimizer.steps = self.step

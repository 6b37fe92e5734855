"""What a check is, and the checks of models: sampling by a CUDA graph, a short training."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import minddpm
from minddpm import backend, samplers
from minddpm.data import ImageDataset
from minddpm.diffusion.sampling import Step
from minddpm.generate import image_size
from minddpm.gpucheck.arrays import largest_error, mapped
from minddpm.gpucheck.convolutions import draw
from minddpm.kernels.cuda.launch import observed_by
from minddpm.training.ddpm import Trainer
from minddpm.training.recipe import PLAIN, Recipe
from minddpm.training.run_directory import RunDirectory

TINY = {
    **minddpm.SMALL, "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 4,
}  # fmt: skip
TRAINING_TOLERANCES = {"float32": 1e-4, "tf32": 1e-3, "fp16": 1e-3, "bf16": 2e-3}
GRAPH_TOLERANCE = 1e-6  # graph and eager run the same kernels


class Row(NamedTuple):
    """The result of a check: its name, its error relative to the largest entry, and its tolerance.

    note: the exception, if the check raised one.
    """

    name: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance; nan is not."""
        return self.error <= self.tolerance


class Check(NamedTuple):
    """A check to be made: the name of its row, and the function that makes it."""

    name: str
    make: Callable[[], Row]

    def __call__(self) -> Row:
        return self.make()


def row(name: str, tolerance: float, error: Callable[[], float]) -> Row:
    """Return a row with the result of error(), or a failed row with a note if error() raises."""
    try:
        return Row(name, error(), tolerance)
    except Exception as problem:  # compiler, launch or device: any error is a finding
        return Row(name, math.inf, tolerance, first_line(problem))


def first_line(problem: Exception) -> str:
    """Return the first line of an exception, for a table."""
    return f"{type(problem).__name__}: {problem}".splitlines()[0]


# --- a short training ----------------------------------------------------------------------------


def strokes(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Return digit-like images of three bright strokes: uint8 [count, size, size, 1]."""
    rng = np.random.default_rng(seed)
    along = np.linspace(0, 1, 3 * size)[:, None]
    rows, columns = np.mgrid[:size, :size]
    images = np.zeros((count, size, size, 1), np.uint8)
    for image in images:
        corners = rng.uniform(0.2, 0.8, (4, 2)) * size
        for start, end in pairwise(corners):
            line = start + along * (end - start)
            squared = (rows[..., None] - line[:, 0]) ** 2 + (columns[..., None] - line[:, 1]) ** 2
            bright = 255 * np.exp(-squared.min(axis=2))
            image[..., 0] = np.maximum(image[..., 0], bright.astype(np.uint8))
    return images


def new_trainer(recipe: Recipe, data: ImageDataset, **changes: Any) -> Trainer:
    """Return a trainer of a new model on the active backend; changes: of the recipe's options."""
    # The directory is only a name: nothing is saved.
    return recipe.trainer(data, RunDirectory("gpucheck"), **changes)


def small_trainer(
    name: str, precision: str, config: dict, batch: int, replay: bool = True
) -> Trainer:
    """Activate backend `name`; return a trainer whose initial model is equal on all backends.

    replay: False if Python is to launch every kernel of every step.
    """
    minddpm.set_backend(name)
    backend.set_precision(precision)
    data = ImageDataset(strokes(2 * batch, config["sample_size"]), None, "strokes")
    recipe = PLAIN._replace(model=config)
    trainer = new_trainer(recipe, data, batch_size=batch, warmup_steps=1)
    if not replay:
        trainer.model, trainer.replay = trainer.unet, lambda function, *inputs: function(*inputs)
    return trainer


def losses(trainer: Trainer, steps: int) -> np.ndarray:
    """Return the loss of each of the next training steps, float64 [steps]."""
    records = [trainer.train_step() for _ in range(steps)]
    return np.array([float(backend.to_numpy(record.losses).mean()) for record in records])


def random_unet(config: dict) -> minddpm.UNet2D:
    """Return an untrained model in eval mode, equal on all backends, without all-zero weights."""
    minddpm.manual_seed(0)
    unet = minddpm.UNet2D(**config).eval()
    for parameter in unet.parameters():
        if parameter.ndim > 1 and not parameter.data.any():
            # All-zero weights would hide all errors of the layers before them.
            parameter.data = 0.05 * draw(1, parameter.shape)[0]
    return unet


def sampling(unet: minddpm.UNet2D, batch: int, steps: int, replay: bool) -> Iterator[Step]:
    """Return the DDPM sampler's steps for a model; replay: run the model as a recorded graph."""
    H, W = image_size(unet)
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(1000))
    shape = batch, H, W, unet.config["in_channels"]
    model = minddpm.replayed(unet) if replay else unet
    return samplers.ddpm(diffusion, model, shape, steps, seed=0)


def graph_check(quick: bool) -> Row:
    """Compare sampling with a replayed model and sampling with the eager model."""
    config, batch, steps = _graph_sizes(quick)

    def error() -> float:
        unet = random_unet(config)
        eager, graph = (list(sampling(unet, batch, steps, replay)) for replay in (False, True))
        return max(
            largest_error(got[:2], mapped(backend.to_numpy, wanted[:2]))
            for got, wanted in zip(graph, eager, strict=True)
        )

    return row(_graph_name(quick), GRAPH_TOLERANCE, error)


def _graph_sizes(quick: bool) -> tuple[dict, int, int]:
    return (TINY, 3, 4) if quick else (minddpm.SMALL, 8, 20)


def _graph_name(quick: bool) -> str:
    return f"{_graph_sizes(quick)[2]} sampling steps, graph against eager"


def training_check(name: str, precision: str, quick: bool) -> Row:
    """Compare the losses of a few training steps with those on numpy, for the same seed."""
    config, batch, steps = _training_sizes(quick)

    def error() -> float:
        wanted = reference_losses("numpy", config is TINY, batch, steps)
        got = losses(small_trainer(name, precision, config, batch), steps)
        return float(np.max(np.abs(got - wanted) / wanted))

    try:
        title = _training_name(name, precision, quick)
        return row(title, TRAINING_TOLERANCES[precision], error)
    finally:
        minddpm.set_backend("cupy")


def _training_sizes(quick: bool) -> tuple[dict, int, int]:
    return (TINY, 2, 3) if quick else (minddpm.SMALL, 8, 5)


def _training_name(name: str, precision: str, quick: bool) -> str:
    return f"losses of {_training_sizes(quick)[2]} training steps, {name}, {precision}"


@cache
def reference_losses(name: str, tiny: bool, batch: int, steps: int) -> np.ndarray:
    """Return the first losses on backend `name`, computed once for all that are compared."""
    config = TINY if tiny else minddpm.SMALL
    return losses(small_trainer(name, "float32", config, batch), steps)


def repeat_check(replay: bool, quick: bool) -> Row:
    """Train, and train again from the same seed: the weights must be equal bit for bit.

    replay: whether the second training replays its steps, the last without a launch from Python.
    The first one does not.
    """
    config, batch, steps = _training_sizes(quick)

    def weights(replay: bool) -> np.ndarray:
        trainer = small_trainer("cupy", "float32", config, batch, replay)
        for _ in range(steps - 1):
            trainer.train_step()
        launched = []
        with observed_by(lambda file, name, *_: nullcontext(launched.append(name))):
            trainer.train_step()
        if replay and launched:
            raise RuntimeError(f"Python launched {launched[0]}: the step was not replayed")
        return backend.to_numpy(trainer.optimizer.flat.data)

    def error() -> float:
        first, second = weights(False), weights(replay)
        return 0.0 if first.tobytes() == second.tobytes() else largest_error(first, second) or 1.0

    return row(_repeat_name(replay, quick), 0.0, error)


def _repeat_name(replay: bool, quick: bool) -> str:
    how = "replayed and eager" if replay else "twice"
    return f"weights after {_training_sizes(quick)[2]} training steps, {how}"


def model_checks(quick: bool) -> list[Check]:
    """Return the checks of sampling, and of training in every precision that the GPU supports."""
    training = [("cupy", name) for name in backend.precisions()] + [("cupy-reference", "float32")]
    return [
        Check(_graph_name(quick), partial(graph_check, quick)),
        *(
            Check(_repeat_name(replay, quick), partial(repeat_check, replay, quick))
            for replay in (False, True)
        ),
        *(
            Check(_training_name(*names, quick), partial(training_check, *names, quick))
            for names in training
        ),
    ]

"""The checks: every function, every rung, sampling by a CUDA graph, a short training."""

import math
from collections.abc import Callable, Iterator
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
from minddpm.gpucheck.cases import Case, every_case
from minddpm.gpucheck.convolutions import (
    WINOGRAD,
    Convolution,
    convolutions,
    draw,
    narrowed,
    rounded,
    sums_tolerance,
)
from minddpm.kernels import reference
from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda import ladder, winograd
from minddpm.kernels.cuda.ladder import FUSED_BACKWARD, RUNGS, Rung, Sizes, available_rungs
from minddpm.kernels.shapes import Parts
from minddpm.training.ddpm import Trainer, TrainingOptions
from minddpm.training.run_directory import RunDirectory

TINY = {
    **minddpm.SMALL, "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 4,
}  # fmt: skip
TRAINING_TOLERANCES = {"float32": 1e-4, "tf32": 1e-3, "fp16": 1e-3, "bf16": 2e-3}
WINOGRAD_NAME = "conv2d, rung 5 Winograd"
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


# --- every function, every rung ------------------------------------------------------------------


def kernel_checks(quick: bool) -> list[Check]:
    """Return the checks of every function and every rung of the convolution; quick: small sizes."""
    cases: dict[str, list[Case]] = {}
    for case in every_case(quick):
        cases.setdefault(case.function, []).append(case)
    sizes = convolutions(quick)
    return [
        *(Check(name, partial(_function, name, cases[name])) for name in sorted(cases)),
        *(Check(f"conv2d, rung {name}", partial(_rung, name, sizes)) for name in available_rungs()),
        Check(WINOGRAD_NAME, partial(_winograd, sizes)),
    ]


def _function(name: str, cases: list[Case]) -> Row:
    return _worst([row(name, case.tolerance, partial(_error, case)) for case in cases])


def _worst(rows: list[Row]) -> Row:
    """Return the first row that failed, else the one closest to its tolerance."""
    wrong = [one for one in rows if not one.ok]
    return wrong[0] if wrong else max(rows, key=lambda one: one.error / (one.tolerance or 1.0))


def _error(case: Case) -> float:
    got = case.result(backend.kernels, backend.xp, mapped(backend.xp.asarray, case.arguments))
    return largest_error(got, case.result(reference, np, mapped(_double, case.arguments)))


def _double(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) if x.dtype == np.float32 else x


def _rung(name: str, sizes: tuple[Convolution, ...]) -> Row:
    rung = RUNGS[name]
    rows = [
        row(
            f"conv2d, rung {name}",
            sums_tolerance(rung, one.depth),
            partial(_rung_error, rung, one, up, dtype),
        )
        for one in sizes
        for up in (0, 1)
        for dtype in dict.fromkeys(("float32", rung.stored))
    ]
    return _worst(rows)


def _rung_error(rung: Rung, c: Convolution, up: int, dtype: str) -> float:
    """Return the largest error of a rung's forward and backward, with all their options.

    The options: x in two parts, upsampled (up), bias, shift and extra. dtype: the type of x.
    """
    x, w, b = (rounded(array, rung.stored) for array in c.arrays()[:3])
    split = [(c.C + 1) // 2]
    xs = tuple(np.ascontiguousarray(part) for part in np.split(x, split, axis=3) if part.size)
    s = Sizes.of(xs, w.shape, c.stride, c.padding, up)
    shift, extra, gy = draw(1, (s.N, s.C_out), *[(s.N, s.OH, s.OW, s.C_out)] * 2)
    gy = rounded(gy, rung.stored)

    xs = tuple(narrowed(part, dtype) for part in xs)
    got = _rung_results(rung, s, up, *mapped(backend.xp.asarray, (xs, w, b, shift, extra, gy)))

    x, w, b, shift, extra, gy = mapped(_double, (x, w, b, shift, extra, gy))
    image = reference.upsample_nearest(x) if up else x
    y = reference.conv2d(image, w, b, c.stride, c.padding) + shift[:, None, None] + extra
    gx, gw, gb = reference.conv2d_backward(gy, image, w, c.stride, c.padding)
    gx = reference.upsample_nearest_backward(gx) if up else gx
    gxs = [part for part in np.split(gx, split, axis=3) if part.size]
    wanted = y, (gxs, gw), (gxs, gw, gy.sum(axis=(1, 2)), gb)
    return largest_error(got, wanted[: len(got)])


def _rung_results(
    rung: Rung, s: Sizes, up: int, xs: Parts, w: Array, b: Array, shift: Array, extra: Array,
    gy: Array,
) -> list[Any]:  # fmt: skip
    """Return y, the gradients by separate kernels and, if the rung has it, by one launch."""
    y = backend.xp.empty(gy.shape, "float32")
    ladder.forward(s, xs, w, b, y, up=up, shift=shift, extra=extra, rung=rung)
    results = [y, ladder.separate_gradients(s, gy, xs, w, rung, up)]
    if rung.file in FUSED_BACKWARD:
        results.append(ladder.backward(s, gy, xs, w, up=up, rung=rung))
    return results


def _winograd(sizes: tuple[Convolution, ...]) -> Row:
    fitting = [c for c in sizes if (c.KH, c.KW, c.stride) == (3, 3, 1)]
    return _worst([row(WINOGRAD_NAME, WINOGRAD, partial(_winograd_error, c)) for c in fitting])


def _winograd_error(c: Convolution) -> float:
    arrays = c.arrays()
    x, w, b, gy, shift, extra = mapped(backend.xp.asarray, arrays)
    s, y = Sizes.of((x,), w.shape, 1, c.padding), backend.xp.empty(gy.shape, "float32")
    winograd.forward(s, (x,), w, b, y, shift=shift, extra=extra)
    got = y, winograd.backward(s, gy, (x,), w)
    x, w, b, gy, shift, extra = mapped(_double, tuple(arrays))
    y = reference.conv2d(x, w, b, 1, c.padding) + shift[:, None, None] + extra
    gx, gw, gb = reference.conv2d_backward(gy, x, w, 1, c.padding)
    return largest_error(got, (y, ((gx,), gw, gy.sum(axis=(1, 2)), gb)))


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


def small_trainer(name: str, precision: str, config: dict, batch: int) -> Trainer:
    """Activate backend `name`; return a trainer whose initial model is equal on all backends."""
    minddpm.set_backend(name)
    backend.set_precision(precision)
    minddpm.manual_seed(0)
    return Trainer(
        minddpm.UNet2D(**config),
        minddpm.GaussianDiffusion(minddpm.schedules.linear(1000)),
        ImageDataset(strokes(2 * batch, config["sample_size"]), None, "strokes"),
        RunDirectory("gpucheck"),  # only a name: nothing is saved
        TrainingOptions(batch_size=batch, warmup_steps=1),
    )


def losses(name: str, precision: str, config: dict, batch: int, steps: int) -> np.ndarray:
    """Return the loss of each of the first training steps, float64 [steps]."""
    trainer = small_trainer(name, precision, config, batch)
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


def training_check(precision: str, quick: bool) -> Row:
    """Compare the losses of a few training steps on cupy with those on numpy, for the same seed."""
    config, batch, steps = _training_sizes(quick)

    def error() -> float:
        wanted = reference_losses(config is TINY, batch, steps)
        got = losses("cupy", precision, config, batch, steps)
        return float(np.max(np.abs(got - wanted) / wanted))

    try:
        return row(_training_name(precision, quick), TRAINING_TOLERANCES[precision], error)
    finally:
        minddpm.set_backend("cupy")


def _training_sizes(quick: bool) -> tuple[dict, int, int]:
    return (TINY, 2, 3) if quick else (minddpm.SMALL, 8, 5)


def _training_name(precision: str, quick: bool) -> str:
    return f"losses of {_training_sizes(quick)[2]} training steps, {precision}"


@cache
def reference_losses(tiny: bool, batch: int, steps: int) -> np.ndarray:
    """Return `losses` of the NumPy backend, computed once for all that are compared with them."""
    return losses("numpy", "float32", TINY if tiny else minddpm.SMALL, batch, steps)


def repeat_check(quick: bool) -> Row:
    """Train twice from the same seed: the weights must be equal bit for bit."""
    config, batch, steps = _training_sizes(quick)

    def weights() -> np.ndarray:
        trainer = small_trainer("cupy", "float32", config, batch)
        for _ in range(steps):
            trainer.train_step()
        return backend.to_numpy(trainer.optimizer.flat.data)

    def error() -> float:
        first, second = weights(), weights()
        return 0.0 if first.tobytes() == second.tobytes() else largest_error(first, second) or 1.0

    return row(_repeat_name(quick), 0.0, error)


def _repeat_name(quick: bool) -> str:
    return f"weights after {_training_sizes(quick)[2]} training steps, twice"


def model_checks(quick: bool) -> list[Check]:
    """Return the checks of sampling, and of training in every precision that the GPU supports."""
    return [
        Check(_graph_name(quick), partial(graph_check, quick)),
        Check(_repeat_name(quick), partial(repeat_check, quick)),
        *(
            Check(_training_name(name, quick), partial(training_check, name, quick))
            for name in backend.precisions()
        ),
    ]

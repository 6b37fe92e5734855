"""One row for each thing that must be right: the functions, the rungs, a short training."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

import minddpm
from minddpm import backend, samplers
from minddpm.data import ImageDataset
from minddpm.diffusion.sampling import Step
from minddpm.generate import image_size
from minddpm.gpucheck.arrays import largest_error, mapped
from minddpm.gpucheck.cases import (
    SUMS,
    WINOGRAD,
    Case,
    Convolution,
    convolutions,
    draw,
    every_case,
    narrowed,
    rounded,
)
from minddpm.kernels import reference
from minddpm.kernels.cuda import convolution, winograd
from minddpm.kernels.cuda.convolution import RUNGS, WHOLE_BACKWARD, Rung, Sizes, rungs
from minddpm.training.ddpm import Trainer, TrainingOptions
from minddpm.training.run_directory import RunDirectory

TINY = {
    **minddpm.SMALL, "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 4,
}  # fmt: skip
TRAINING = {"float32": 1e-4, "tf32": 1e-3, "fp16": 1e-3, "bf16": 2e-3}  # of the loss
GRAPH = 1e-6  # the same kernels


class Row(NamedTuple):
    """What was checked, how far off it is in units of the largest entry, and what is allowed.

    note: why there is no number, if there is none.
    """

    name: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is right; nan is not."""
        return self.error <= self.tolerance


Check = Callable[[], Row]


def row(name: str, tolerance: float, error: Callable[[], float]) -> Row:
    """A row with what error() gives; if that fails, one that is not ok and says why."""
    try:
        return Row(name, error(), tolerance)
    except Exception as problem:  # of the compiler, of a launch, of the device: all are findings
        return Row(name, math.inf, tolerance, first_line(problem))


def first_line(problem: Exception) -> str:
    """What happened, in a line of a table."""
    return f"{type(problem).__name__}: {problem}".splitlines()[0]


# --- every function, every rung ------------------------------------------------------------------


def kernel_checks(quick: bool) -> list[Check]:
    """For every function of the reference and every rung of the convolution; quick: small sizes."""
    cases: dict[str, list[Case]] = {}
    for case in every_case(quick):
        cases.setdefault(case.function, []).append(case)
    sizes = convolutions(quick)
    return [
        *(partial(_function, name, cases[name]) for name in sorted(cases)),
        *(partial(_rung, name, sizes) for name in rungs()),
        partial(_winograd, sizes),
    ]


def _function(name: str, cases: list[Case]) -> Row:
    return _worst([row(name, case.tolerance, partial(_error, case)) for case in cases])


def _worst(rows: list[Row]) -> Row:
    """The first that is wrong, else the one that uses up most of its tolerance."""
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
        row(f"conv2d, rung {name}", SUMS, partial(_rung_error, rung, one, up, dtype))
        for one in sizes
        for up in (0, 1)
        for dtype in dict.fromkeys(("float32", rung.stored))
    ]
    return _worst(rows)


def _rung_error(rung: Rung, c: Convolution, up: int, dtype: str) -> float:
    """Forward and backward, with all that loader and store can do: two parts, doubled, sums.

    dtype: in which x is given.
    """
    x, w, b = (rounded(array, rung.stored) for array in c.arrays()[:3])
    cut = [(c.C + 1) // 2]
    xs = tuple(np.ascontiguousarray(p) for p in np.split(x, cut, axis=3) if p.size)
    s = Sizes.of(xs, w.shape, c.stride, c.padding, up)
    shift, extra, gy = draw(1, (s.N, s.K), *[(s.N, s.OH, s.OW, s.K)] * 2)
    gy = rounded(gy, rung.stored)

    xs = tuple(narrowed(part, dtype) for part in xs)
    xs_there, *there = mapped(backend.xp.asarray, (xs, w, b, shift, extra, gy))
    y = backend.xp.empty(gy.shape, "float32")
    convolution.forward(
        s, xs_there, *there[:2], y, up=up, shift=there[2], extra=there[3], rung=rung
    )
    got = [y, convolution.gradients_apart(s, there[4], xs_there, there[0], rung, up)]
    if rung.file in WHOLE_BACKWARD:
        got.append(convolution.backward(s, there[4], xs_there, there[0], up=up, rung=rung))

    x, w, b, shift, extra, gy = mapped(_double, (x, w, b, shift, extra, gy))
    seen = reference.upsample_nearest(x) if up else x
    y = reference.conv2d(seen, w, b, c.stride, c.padding) + shift[:, None, None] + extra
    gx, gw, gb = reference.conv2d_backward(gy, seen, w, c.stride, c.padding)
    gx = reference.upsample_nearest_backward(gx) if up else gx
    gxs = [part for part in np.split(gx, cut, axis=3) if part.size]
    wanted = y, (gxs, gw), (gxs, gw, gy.sum(axis=(1, 2)), gb)
    return largest_error(got, wanted[: len(got)])


def _winograd(sizes: tuple[Convolution, ...]) -> Row:
    fitting = [c for c in sizes if (c.KH, c.KW, c.stride) == (3, 3, 1)]
    name = "conv2d, rung 5 Winograd"
    return _worst([row(name, WINOGRAD, partial(_winograd_error, c)) for c in fitting])


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
    """Pictures a little like digits: three bright strokes each, uint8 [count, size, size, 1]."""
    rng = np.random.default_rng(seed)
    along = np.linspace(0, 1, 3 * size)[:, None]
    rows, columns = np.mgrid[:size, :size]
    pictures = np.zeros((count, size, size, 1), np.uint8)
    for picture in pictures:
        corners = rng.uniform(0.2, 0.8, (4, 2)) * size
        for start, end in pairwise(corners):
            line = start + along * (end - start)
            squared = (rows[..., None] - line[:, 0]) ** 2 + (columns[..., None] - line[:, 1]) ** 2
            bright = 255 * np.exp(-squared.min(axis=2))
            picture[..., 0] = np.maximum(picture[..., 0], bright.astype(np.uint8))
    return pictures


def small_trainer(name: str, precision: str, config: dict, batch: int) -> Trainer:
    """A model about to be trained, the same one on every backend; `name` is then the active one."""
    minddpm.set_backend(name)
    backend.set_precision(precision)
    minddpm.manual_seed(0)
    return Trainer(
        minddpm.UNet2D(**config),
        minddpm.GaussianDiffusion(minddpm.schedules.linear(1000)),
        ImageDataset(strokes(2 * batch, config["sample_size"]), None, "strokes"),
        RunDirectory("gpucheck"),  # no more than a name: nothing is saved
        TrainingOptions(batch_size=batch, warmup_steps=1),
    )


def losses(name: str, precision: str, config: dict, batch: int, steps: int) -> np.ndarray:
    """The loss of each of the first steps, float64 [steps]."""
    trainer = small_trainer(name, precision, config, batch)
    records = [trainer.train_step() for _ in range(steps)]
    return np.array([float(backend.to_numpy(record.losses).mean()) for record in records])


def random_unet(config: dict) -> minddpm.UNet2D:
    """An untrained model, the same one on every backend, in eval mode and without zeros."""
    minddpm.manual_seed(0)
    unet = minddpm.UNet2D(**config).eval()
    for parameter in unet.parameters():
        if parameter.ndim > 1 and not parameter.data.any():
            # Zeros, with which training begins, would hide any error before them.
            parameter.data = 0.05 * draw(1, parameter.shape)[0]
    return unet


def sampling(unet: minddpm.UNet2D, batch: int, steps: int, replay: bool) -> Iterator[Step]:
    """Ancestral steps of a model."""
    H, W = image_size(unet)
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(1000))
    shape = batch, H, W, unet.config["in_channels"]
    model = minddpm.replayed(unet) if replay else unet
    return samplers.ddpm(diffusion, model, shape, steps, seed=0)


def graph_check(quick: bool) -> Row:
    """Sampling with every step but the first a graph, in units of the same launched one by one."""
    config, batch, steps = (TINY, 3, 4) if quick else (minddpm.SMALL, 8, 20)

    def error() -> float:
        unet = random_unet(config)
        eager, graph = (list(sampling(unet, batch, steps, replay)) for replay in (False, True))
        return max(
            largest_error(got[:2], mapped(backend.to_numpy, wanted[:2]))
            for got, wanted in zip(graph, eager, strict=True)
        )

    return row(f"{steps} sampling steps, graph against eager", GRAPH, error)


def training_check(precision: str, quick: bool) -> Row:
    """The losses of a few steps on cupy, in units of those on numpy from the same seed."""
    config, batch, steps = (TINY, 2, 3) if quick else (minddpm.SMALL, 8, 5)

    def error() -> float:
        wanted = losses("numpy", "float32", config, batch, steps)
        got = losses("cupy", precision, config, batch, steps)
        return float(np.max(np.abs(got - wanted) / wanted))

    try:
        return row(f"losses of {steps} training steps, {precision}", TRAINING[precision], error)
    finally:
        minddpm.set_backend("cupy")


def whole_checks(quick: bool) -> list[Check]:
    """Of sampling and of training, in every precision that the GPU has."""
    training = [partial(training_check, name, quick) for name in backend.precisions()]
    return [partial(graph_check, quick), *training]

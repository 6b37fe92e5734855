"""The implementations of a UNet: in minddpm, in PyTorch (diffusers) and in JAX.

All have the same weights, images, t and noise. Each implementation is built for one task:

    forward   the network alone, without storing anything for a gradient
    sample    one step of ancestral sampling: the network, new noise, the update
    train     noising, forward, loss, backward, gradient norm and clipping, Adam, moving average
"""

import itertools
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

import minddpm
from contestants import has
from measure import synchronised, verify
from minddpm import backend, nn, samplers
from minddpm.replay import ReplayedStep, replayed
from unet_problem import CLIP, DECAY, DISTINCT, LR, Problem, T, our_unet
from unet_problem import problem as problem

TASKS = ("forward", "sample", "train")
PYTORCH = {  # mode: modules that it needs
    "PyTorch NCHW": ("torch", "diffusers"),
    "PyTorch channels_last": ("torch", "diffusers"),
    "torch.compile": ("torch", "diffusers"),
}
XLA = {"JAX": ("jax",)}
INFERENCE = {
    "OpenVINO": ("torch", "diffusers", "openvino"),
    "ONNX Runtime": ("torch", "diffusers", "onnx", "onnxruntime", "onnxscript"),
}


def modes(task: str) -> list[str]:
    """Return the installed modes that minddpm is compared with in this task."""
    known = {**PYTORCH, **XLA} if task == "train" else {**PYTORCH, **XLA, **INFERENCE}
    return [mode for mode, needed in known.items() if all(map(has, needed))]


def missing() -> list[str]:
    """Return the modes that are not installed."""
    known = {**PYTORCH, **XLA, **INFERENCE}
    return [mode for mode, needed in known.items() if not all(map(has, needed))]


# --- minddpm -------------------------------------------------------------------------------------


def our_forward(p: Problem) -> Callable[[], backend.Array]:
    """Return a forward pass as in minddpm.generate: replayed, with constant weights."""
    model = replayed(our_unet(p).eval())
    x, t = backend.xp.asarray(p.x0), backend.xp.asarray(p.t)
    kernels, derived = backend.kernels, {}

    def forward() -> backend.Array:
        with kernels.constant_weights(derived):
            return model(x, t)

    return forward


def our_sample(p: Problem) -> Callable[..., np.ndarray]:
    """Return sample: sample(z) computes the first step with noise z, sample() the next step.

    The weights are declared constant and the model is replayed, as in minddpm.generate.
    """
    model = replayed(our_unet(p).eval())
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(T))
    start = partial(samplers.ddpm, diffusion, model, p.x0.shape, x_T=p.x0)
    endless_steps = itertools.chain.from_iterable(start() for _ in itertools.count())

    kernels, derived = backend.kernels, {}

    def sample(z: np.ndarray | None = None) -> np.ndarray:
        with kernels.constant_weights(derived):
            steps = endless_steps if z is None else start(noise=lambda i: z)
            return next(steps).x

    return sample


def our_train(p: Problem) -> Callable[[], tuple[float, float]]:
    unet = our_unet(p).train()
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(T))
    optimizer = nn.Adam(unet.parameters(), LR)
    ema = nn.EMA(optimizer.flat, DECAY)
    steps = itertools.count()

    def compute(step: int, x0: Any, t: Any, noise: Any, *numbers: Any) -> tuple[Any, Any]:
        minddpm.manual_seed(0, step)  # for dropout, as the trainer does
        losses = diffusion.training_losses(unet, x0, t, noise)
        losses.mean().backward()
        squared = optimizer.update(*numbers, CLIP, ema)
        optimizer.zero_grad()
        return losses.data, squared

    step = ReplayedStep(unet, optimizer.arrays(ema))

    def train() -> tuple[float, float]:
        numbers = optimizer.numbers(ema)
        losses, squared = step(compute, next(steps), p.x0, p.t, p.noise, *numbers)
        optimizer.steps += 1
        return float(backend.to_numpy(losses).mean()), math.sqrt(backend.to_numpy(squared))

    return train


def without_replay() -> AbstractContextManager[Any]:
    """Within the block, build implementations of minddpm that call Python between the kernels."""
    return mock.patch.multiple(
        sys.modules[__name__],
        replayed=lambda model: model,
        ReplayedStep=lambda model, state: lambda function, *inputs: function(*inputs),
    )


OURS = {"forward": our_forward, "sample": our_sample, "train": our_train}


# --- verification --------------------------------------------------------------------------------


class Expected(NamedTuple):
    """Results of the reference kernels for the first images of a batch; images are independent."""

    task: str
    problem: Problem
    values: Any

    def check(self, contestant: Callable[..., Any]) -> None:
        """Raise WrongResultError if the implementation's results differ."""
        if self.task == "train":  # the second loss depends on the first step's update
            trace = np.array([contestant(), contestant()])
            verify(tuple(trace.T), self.values, self.problem.tolerance)
        else:
            argument = (self.problem.noise,) if self.task == "sample" else ()
            verify(contestant(*argument)[: len(self.values)], self.values, 1e-3)


def expected(task: str, p: Problem) -> Expected:
    """Compute the expected results with the NumPy backend."""
    minddpm.set_backend("numpy")
    first = p._replace(x0=p.x0[:DISTINCT], t=p.t[:DISTINCT], noise=p.noise[:DISTINCT])
    if task == "train":
        train = our_train(first)
        return Expected(task, p, tuple(np.array([train(), train()]).T))
    contestant = OURS[task](first)
    return Expected(task, p, contestant(first.noise) if task == "sample" else contestant())


def _on(name: str, contestant: Callable[..., Any], *arguments: Any) -> Any:
    """Run the implementation on its own backend; others may have activated another backend."""
    if backend.active().name != name:
        minddpm.set_backend(name)
    return contestant(*arguments)


def build(mode: str, task: str, p: Problem, wanted: Expected) -> Callable[[], Any]:
    """Return a verified implementation; mode: a backend of minddpm or one of `modes(task)`."""
    minddpm.set_backend(mode if mode in backend.NAMES else "numpy")
    if mode in backend.NAMES:
        contestant = partial(_on, mode, OURS[task](p))
        if backend.BACKENDS[mode][0] == "cupy":
            contestant = synchronised(contestant)
    elif mode in XLA:
        from jax_unets import build_jax

        contestant = build_jax(task, p)
    else:
        from torch_unets import build_theirs

        contestant = build_theirs(mode, task, p)
    wanted.check(contestant)
    return contestant

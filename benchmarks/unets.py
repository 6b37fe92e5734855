"""Who is compared on the whole UNet: minddpm, and the same UNet in PyTorch (diffusers') and in JAX.

All have the same weights and see the same pictures, t and noise. A contestant is built for one
task:

    forward   the network alone, nothing kept for a gradient
    sample    one step of ancestral sampling: the network, fresh noise, the step itself
    train     noising, forward, loss, backward, gradient norm and clipping, Adam, moving average
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import minddpm
from contestants import has
from measure import synchronised, verify
from minddpm import backend, nn, samplers
from unet_problem import CLIP, DECAY, DIFFERENT, LR, Problem, T, our_unet
from unet_problem import problem as problem

TASKS = ("forward", "sample", "train")
PYTORCH = {  # mode: the modules that it needs
    "PyTorch NCHW": ("torch", "diffusers"),
    "PyTorch channels_last": ("torch", "diffusers"),
    "torch.compile": ("torch", "diffusers"),
}
XLA = {"JAX": ("jax",)}
INFERENCE = {
    "OpenVINO": ("torch", "diffusers", "openvino"),
    "ONNX Runtime": ("torch", "diffusers", "onnx", "onnxruntime", "onnxscript"),
}
EXTRA = 'pip install -e ".[benchmark]"'


def modes(task: str) -> list[str]:
    """Whom minddpm is compared with in this task, as far as installed."""
    known = {**PYTORCH, **XLA} if task == "train" else {**PYTORCH, **XLA, **INFERENCE}
    return [mode for mode, needed in known.items() if all(map(has, needed))]


def missing() -> list[str]:
    """Whom it is not compared with, as not installed."""
    known = {**PYTORCH, **XLA, **INFERENCE}
    return [mode for mode, needed in known.items() if not all(map(has, needed))]


# --- minddpm -------------------------------------------------------------------------------------


def our_forward(p: Problem) -> Callable[[], backend.Array]:
    unet = our_unet(p).eval()
    x, t = backend.xp.asarray(p.x0), backend.xp.asarray(p.t)

    def forward() -> backend.Array:
        with minddpm.no_grad():
            return unet(x, t).data

    return forward


def our_sample(p: Problem) -> Callable[..., np.ndarray]:
    """sample(z) makes the first step with the noise z; sample() makes one step after the other.

    The weights are said to stay, as minddpm.generate says it.
    """
    unet = our_unet(p).eval()
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(T))
    walk = partial(samplers.ddpm, diffusion, unet, p.x0.shape, x_T=p.x0)
    endless = itertools.chain.from_iterable(walk() for _ in itertools.count())

    kernels, derived = backend.kernels, {}

    def sample(z: np.ndarray | None = None) -> np.ndarray:
        with kernels.constant_weights(derived):
            return next(endless if z is None else walk(noise=lambda i: z)).x

    return sample


def our_train(p: Problem) -> Callable[[], tuple[float, float]]:
    unet = our_unet(p).train()
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(T))
    optimizer = nn.Adam(unet.parameters(), LR)
    ema = nn.EMA(optimizer.flat, DECAY)

    def train() -> tuple[float, float]:
        loss = diffusion.training_losses(unet, p.x0, p.t, p.noise).mean()
        loss.backward()
        squared = optimizer.step(CLIP, ema)
        optimizer.zero_grad()
        return float(loss.numpy()), math.sqrt(backend.to_numpy(squared))

    return train


OURS = {"forward": our_forward, "sample": our_sample, "train": our_train}


# --- verified ------------------------------------------------------------------------------------


class Expected(NamedTuple):
    """What the reference kernels compute: of the first pictures, as each is computed by itself."""

    task: str
    problem: Problem
    values: Any

    def check(self, contestant: Callable[..., Any]) -> None:
        """Raise WrongResultError if the contestant computes something else."""
        if self.task == "train":  # the second loss tells whether the first step was right
            trace = np.array([contestant(), contestant()])
            verify(tuple(trace.T), self.values, self.problem.tolerance)
        else:
            argument = (self.problem.noise,) if self.task == "sample" else ()
            verify(contestant(*argument)[: len(self.values)], self.values, 1e-3)


def expected(task: str, p: Problem) -> Expected:
    """Computed with the NumPy backend."""
    minddpm.set_backend("numpy")
    few = p._replace(**{a: getattr(p, a)[:DIFFERENT] for a in ("x0", "t", "noise")})
    if task == "train":
        train = our_train(few)
        return Expected(task, p, tuple(np.array([train(), train()]).T))
    contestant = OURS[task](few)
    return Expected(task, p, contestant(few.noise) if task == "sample" else contestant())


def _on(name: str, contestant: Callable[..., Any], *arguments: Any) -> Any:
    """Run it on its own backend, whichever the others left active."""
    if backend.active().name != name:
        minddpm.set_backend(name)
    return contestant(*arguments)


def build(mode: str, task: str, p: Problem, wanted: Expected) -> Callable[[], Any]:
    """A verified contestant; mode: a backend of minddpm, or one of `modes(task)`."""
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

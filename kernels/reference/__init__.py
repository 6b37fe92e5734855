"""Every hot operation once, in plain array code that runs on NumPy and on CuPy.

The folder kernels/ is imported as minddpm.kernels (setup.cfg). This package is the specification:
every other kernel set has the same names and signatures and is tested against it. It is written for
clarity, but vectorised: no loop over pixels or images.

Conventions: images [N, H, W, C]; gy is the gradient of the loss with respect to y, so gx has the
shape of x. `partial`: gradient already accumulated for x, added to gx; None if there is none. Each
function keeps the floating-point type of its arguments (float32 in use, float64 under gradcheck).
Arrays may be views of any strides, and are written to only if the docstring says "in place": one gy
may be the gradient of several results. `kernels`: the kernel set whose operations a composed
operation calls; None for the reference.

Read convolution.py, linear.py, norm.py, attention.py, pointwise.py (SiLU, dropout, upsampling,
timestep features), residual.py (combinations of these), lookup.py (schedules at t, rows of an
embedding), noise.py (random numbers, noising by q_sample, the sampler's step by sampler_step),
losses.py (the mean squared error), optimizer.py (Adam, moving averages), muon.py (Muon).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from minddpm.kernels.arrays import Array
from minddpm.kernels.reference.attention import attention, attention_backward
from minddpm.kernels.reference.convolution import (
    conv2d,
    conv2d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
)
from minddpm.kernels.reference.linear import linear, linear_backward, linears, linears_backward
from minddpm.kernels.reference.lookup import take, take_rows, take_rows_backward
from minddpm.kernels.reference.losses import mean_squared_errors, mean_squared_errors_backward
from minddpm.kernels.reference.muon import muon
from minddpm.kernels.reference.noise import (
    philox4x32,
    q_sample,
    q_sample_normal,
    random_bits,
    random_normal,
    random_uniform,
    sampler_step,
    sampler_step_normal,
)
from minddpm.kernels.reference.norm import (
    group_norm,
    group_norm_backward,
    group_norm_silu,
    group_norm_silu_backward,
)
from minddpm.kernels.reference.optimizer import (
    adam,
    clip_scale,
    ema,
    set_to_zero,
    squared_norm,
)
from minddpm.kernels.reference.pointwise import (
    add,
    add_all,
    add_to,
    dropout,
    silu,
    silu_backward,
    timestep_features,
    upsample_nearest,
    upsample_nearest_backward,
)
from minddpm.kernels.reference.residual import (
    norm_silu_conv2d,
    norm_silu_conv2d_backward,
    upsample_conv2d,
    upsample_conv2d_backward,
)

__all__ = [
    "adam", "add", "add_all", "add_to", "attention", "attention_backward", "clip_scale",
    "constant_weights", "conv2d", "conv2d_backward", "conv_transpose2d",
    "conv_transpose2d_backward", "dropout", "ema", "group_norm", "group_norm_backward",
    "group_norm_silu", "group_norm_silu_backward", "is_recording", "linear", "linear_backward",
    "linears", "linears_backward", "mean_squared_errors", "mean_squared_errors_backward", "muon",
    "norm_silu_conv2d", "norm_silu_conv2d_backward", "philox4x32", "q_sample", "q_sample_normal",
    "random_bits", "random_normal", "random_uniform", "replayed", "replayed_step", "sampler_step",
    "sampler_step_normal", "set_to_zero", "silu", "silu_backward", "squared_norm", "take",
    "take_rows", "take_rows_backward", "timestep_features", "upsample_conv2d",
    "upsample_conv2d_backward", "upsample_nearest", "upsample_nearest_backward",
]  # fmt: skip


def constant_weights(derived: dict | None = None) -> AbstractContextManager[dict]:
    """Declare that no weight changes within the block: arrays derived from weights may be cached.

    derived: the result of an earlier block, if no weight has changed since.
    """
    return nullcontext({} if derived is None else derived)


def replayed(function: Callable) -> Callable:
    """Return a function that may record and replay the kernels of `function`; here it does not.

    function: takes and returns arrays, runs the same kernels for all values of them, and reads no
    value on the host.
    """
    return function


def replayed_step(count: int, state: tuple[Array, ...]) -> Callable[..., Any]:
    """Return a caller of a training step's functions that may record and replay their kernels.

    Here it does not. A step has `count` functions f; the caller gets each of them once, in order,
    as call(i, f, step, *inputs), and returns f(step, *inputs): an array, a tuple of arrays or None.
    step: of all random draws. inputs: arrays, numbers that may change, or None. The functions are
    the same in every step, and run the same kernels for all values. state: the float32 arrays that
    they change.
    """
    return _call


def _call(i: int, function: Callable[..., Any], step: int, *inputs: Any) -> Any:
    return function(step, *inputs)


def is_recording() -> bool:
    """Return whether a function that is called now would be recorded by a caller; here never."""
    return False

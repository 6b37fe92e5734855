"""The hot operations in raw CUDA C, under the names and signatures of kernels/reference/.

The .cu files are the kernels. Each subject of the reference has its file of host functions here,
under the same name: convolution.py, linear.py, norm.py, attention.py, pointwise.py, residual.py,
lookup.py, noise.py, losses.py, optimizer.py, muon.py. The reference documents what they return.
They build on launch.py (compiles and launches kernels), ladder.py and winograd.py (the rungs of the
convolution), replay.py and recorder.py (record CUDA graphs). All need an array library called cupy,
which may be the stand-in that runs the kernels on the CPU (kernels/emulator).

float32 only: other types (gradient checks use float64) go to the reference. Internally, the
input silu(norm(x)) of a 3x3 convolution on tensor cores has the type they read (ladder.stored_as).
"""

from pathlib import Path

from minddpm.kernels.cuda.attention import attention, attention_backward
from minddpm.kernels.cuda.convolution import (
    conv2d,
    conv2d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
)
from minddpm.kernels.cuda.launch import FOLDER
from minddpm.kernels.cuda.linear import linear, linear_backward, linears, linears_backward
from minddpm.kernels.cuda.lookup import take, take_rows, take_rows_backward
from minddpm.kernels.cuda.losses import mean_squared_errors, mean_squared_errors_backward
from minddpm.kernels.cuda.muon import muon
from minddpm.kernels.cuda.noise import (
    q_sample,
    q_sample_normal,
    random_bits,
    random_normal,
    random_uniform,
    sampler_step,
    sampler_step_normal,
)
from minddpm.kernels.cuda.norm import (
    group_norm,
    group_norm_backward,
    group_norm_silu,
    group_norm_silu_backward,
)
from minddpm.kernels.cuda.optimizer import adam, clip_scale, ema, squared_norm
from minddpm.kernels.cuda.pointwise import (
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
from minddpm.kernels.cuda.recorder import is_recording
from minddpm.kernels.cuda.replay import replayed, replayed_step
from minddpm.kernels.cuda.residual import (
    norm_silu_conv2d,
    norm_silu_conv2d_backward,
    upsample_conv2d,
    upsample_conv2d_backward,
)
from minddpm.kernels.reference import constant_weights, philox4x32, set_to_zero

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


def files() -> list[Path]:
    """Return the .cu files, sorted by name, so the rungs of the ladder are in order."""
    return sorted(FOLDER.glob("*.cu"))

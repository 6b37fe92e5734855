"""The hot operations in Numba, under the names and signatures of kernels/reference/.

Each operation is in the file of the same name as in kernels/reference/: convolution.py, linear.py,
norm.py, attention.py, pointwise.py, residual.py, lookup.py, noise.py, losses.py, optimizer.py,
muon.py. They build on, in reading order: vector/ (vector instructions and the register tile),
task.py, pool.py and threads.py (how threads run a kernel), memory.py, ladder/ (the convolution,
rung by rung: start with choose.py), matrix_product.py, transposed.py and subpixel.py,
norm_steps.py, philox.py.

float32 only: other types (gradient checks use float64) go to the reference.
"""

from minddpm.kernels.cpu.cache import own_cache
from minddpm.kernels.reference import philox4x32

with own_cache():  # every module with compiled functions is imported within this block
    from minddpm.kernels.cpu import threads
    from minddpm.kernels.cpu.attention import attention, attention_backward
    from minddpm.kernels.cpu.constant_weights import constant_weights
    from minddpm.kernels.cpu.convolution import (
        conv2d,
        conv2d_backward,
        conv_transpose2d,
        conv_transpose2d_backward,
    )
    from minddpm.kernels.cpu.linear import linear, linear_backward, linears, linears_backward
    from minddpm.kernels.cpu.lookup import take, take_rows, take_rows_backward
    from minddpm.kernels.cpu.losses import mean_squared_errors, mean_squared_errors_backward
    from minddpm.kernels.cpu.memory import keep_freed_memory
    from minddpm.kernels.cpu.muon import muon
    from minddpm.kernels.cpu.noise import (
        q_sample,
        q_sample_normal,
        random_bits,
        random_normal,
        random_uniform,
        sampler_step,
        sampler_step_normal,
    )
    from minddpm.kernels.cpu.norm import (
        group_norm,
        group_norm_backward,
        group_norm_silu,
        group_norm_silu_backward,
    )
    from minddpm.kernels.cpu.optimizer import adam, clip_scale, ema, set_to_zero, squared_norm
    from minddpm.kernels.cpu.pointwise import (
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
    from minddpm.kernels.cpu.recorder import is_recording
    from minddpm.kernels.cpu.replay import replayed, replayed_step
    from minddpm.kernels.cpu.residual import (
        norm_silu_conv2d,
        norm_silu_conv2d_backward,
        upsample_conv2d,
        upsample_conv2d_backward,
    )

threads.start()
keep_freed_memory()

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

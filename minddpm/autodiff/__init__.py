"""Hand-written reverse-mode automatic differentiation.

Read tensor.py (the graph and backward), function.py (one operation), elementwise.py, shape.py,
layers.py (the operations) and gradcheck.py (how we know that they are right), in this order.
"""

from minddpm.autodiff.elementwise import exp, log, silu
from minddpm.autodiff.function import Function
from minddpm.autodiff.gradcheck import GradientError, gradcheck
from minddpm.autodiff.layers import (
    attention,
    conv2d,
    dropout,
    group_norm,
    group_norm_silu,
    linear,
    linears,
    norm_silu_conv2d,
    upsample_conv2d,
    upsample_nearest,
)
from minddpm.autodiff.shape import concat, mean, reshape, sum, take_rows
from minddpm.autodiff.tensor import Tensor, no_grad

__all__ = [
    "Function",
    "GradientError",
    "Tensor",
    "attention",
    "concat",
    "conv2d",
    "dropout",
    "exp",
    "gradcheck",
    "group_norm",
    "group_norm_silu",
    "linear",
    "linears",
    "log",
    "mean",
    "no_grad",
    "norm_silu_conv2d",
    "reshape",
    "silu",
    "sum",
    "take_rows",
    "upsample_conv2d",
    "upsample_nearest",
]

"""Hand-written reverse-mode automatic differentiation.

Read graph.py (Tensor, Function and backward; seal.py guards its saved arrays), then the operations:
pointwise.py, shape.py, layers.py, convolution.py, losses.py; and gradcheck.py, which checks them.
"""

from minddpm.autodiff.convolution import (
    conv2d,
    conv_transpose2d,
    norm_silu_conv2d,
    upsample_conv2d,
)
from minddpm.autodiff.gradcheck import GradientError, gradcheck
from minddpm.autodiff.graph import Function, Tensor, no_grad
from minddpm.autodiff.layers import (
    attention,
    dropout,
    group_norm,
    group_norm_silu,
    linear,
    linears,
    upsample_nearest,
)
from minddpm.autodiff.losses import (
    binary_cross_entropy,
    cross_entropy,
    log_softmax,
    softplus,
)
from minddpm.autodiff.pointwise import exp, log, silu, tanh
from minddpm.autodiff.shape import concat, mean, reshape, sum, take_rows

__all__ = [
    "Function",
    "GradientError",
    "Tensor",
    "attention",
    "binary_cross_entropy",
    "concat",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "exp",
    "gradcheck",
    "group_norm",
    "group_norm_silu",
    "linear",
    "linears",
    "log",
    "log_softmax",
    "mean",
    "no_grad",
    "norm_silu_conv2d",
    "reshape",
    "silu",
    "softplus",
    "sum",
    "take_rows",
    "tanh",
    "upsample_conv2d",
    "upsample_nearest",
]

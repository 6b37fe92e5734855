"""Hand-written reverse-mode automatic differentiation.

Read graph.py (Tensor, Function, backward; seal.py guards the saved arrays; parts.py runs a backward
part by part), then the operations:

    pointwise.py     +, -, *, /, **, exp, log, tanh, silu
    shape.py         sum, mean, reshape, x[index], concat, take_rows
    layers.py        linear, linears, group_norm, group_norm_silu, attention, dropout,
                     upsample_nearest
    convolution.py   conv2d, conv_transpose2d, upsample_conv2d, norm_silu_conv2d
    losses.py        mean_squared_errors, softplus, log_softmax, cross_entropy, binary_cross_entropy

gradcheck.py checks every backward; checks.py checks shapes. The mathematics of silu, the layers and
the convolutions is in kernels/reference/<subject>.py (the folder kernels/ is imported as
minddpm.kernels); the mathematics of the other operations is beside their code.
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
    mean_squared_errors,
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
    "mean_squared_errors",
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

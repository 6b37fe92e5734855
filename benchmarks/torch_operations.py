"""The operations of cases.py as a PyTorch user would write them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from cases import Operation

LAYOUTS = {"PyTorch NCHW": torch.contiguous_format, "PyTorch channels_last": torch.channels_last}

Tensor = torch.Tensor
Back = Callable[[Tensor], Tensor]


class Twin(NamedTuple):
    """An operation in PyTorch: run(*leaves) returns one or several results.

    back: functions that convert each result, then each leaf's gradient, to minddpm's layout.
    """

    run: Callable[..., Tensor]
    leaves: tuple[Tensor, ...]
    back: tuple[Back, ...]
    image: Callable[[np.ndarray], Tensor] = torch.from_numpy  # converts minddpm's gy


def same(x: Tensor) -> Tensor:
    return x


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def hwio(w: Tensor) -> Tensor:
    return w.permute(2, 3, 1, 0)


def images(layout: torch.memory_format) -> Callable[[np.ndarray], Tensor]:
    """Return a function that copies [N, H, W, C] to [N, C, H, W] in this memory layout."""

    def convert(x: np.ndarray) -> Tensor:
        x = torch.from_numpy(x).permute(0, 3, 1, 2)
        return x.clone(memory_format=layout)

    return convert


def twin(operation: Operation, layout: torch.memory_format) -> Twin:
    """Return the same operation in PyTorch, with the same numbers."""
    image = images(layout)
    match operation.function, operation.arguments:
        case "conv2d" | "conv_transpose2d" as name, (x, w, b, stride, ((pad, _), _)):
            weight = torch.from_numpy(w).permute(3, 2, 0, 1).clone(memory_format=layout)
            return Twin(
                lambda x, w, b: getattr(F, name)(x, w, b, stride, pad),
                (image(x), weight, torch.from_numpy(b)),
                (nhwc, nhwc, hwio, same),
                image,
            )
        case "linear", ((x,), w, b):
            leaves = (torch.from_numpy(x), torch.from_numpy(w.T.copy()), torch.from_numpy(b))
            return Twin(F.linear, leaves, (same, same, Tensor.t, same))
        case "group_norm_silu", (x, w, b, groups, eps):
            leaves = (image(x), torch.from_numpy(w), torch.from_numpy(b))
            return Twin(
                lambda x, w, b: F.silu(F.group_norm(x, groups, w, b, eps)),
                leaves,
                (nhwc, nhwc, same, same),
                image,
            )
        case "norm_silu_conv2d", ((x,), weight, bias, groups, eps, w, b, shift, extra):
            residual = image(extra)
            leaves = (
                image(x), torch.from_numpy(weight), torch.from_numpy(bias),
                torch.from_numpy(w).permute(3, 2, 0, 1).clone(memory_format=layout),
                torch.from_numpy(b), torch.from_numpy(shift),
            )  # fmt: skip

            def block(x: Tensor, weight: Tensor, bias: Tensor, w: Tensor, *bs: Tensor) -> Tensor:
                h = F.silu(F.group_norm(x, groups, weight, bias, eps))
                return F.conv2d(h, w, bs[0], 1, 1) + bs[1][:, :, None, None] + residual

            return Twin(block, leaves, (nhwc, nhwc, same, same, hwio, same, same), image)
        case "attention", (q, k, v, heads):
            N, L, C = q.shape

            def run(*qkv: Tensor) -> Tensor:
                qkv = (a.view(N, L, heads, C // heads).transpose(1, 2) for a in qkv)
                return F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(N, L, C)

            return Twin(run, tuple(map(torch.from_numpy, (q, k, v))), (same,) * 4)
        case "silu", (x,):
            return Twin(F.silu, (torch.from_numpy(x),), (same, same))
        case "upsample_nearest", (x,):
            return Twin(
                lambda x: F.interpolate(x, scale_factor=2.0), (image(x),), (nhwc, nhwc), image
            )
        case "q_sample", (x0, noise, a, b):
            shape = (-1, 1, 1, 1)
            leaves = tuple(map(torch.from_numpy, (x0, noise, a.reshape(shape), b.reshape(shape))))
            return Twin(lambda x0, noise, a, b: a * x0 + b * noise, leaves, (same,))
        case "sampler_step", (x, output, noise, (px, po, k0, kx, _, sigma), True):

            def step(x: Tensor, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
                pred = (px * x + po * output).clamp_(-1, 1)
                return k0 * pred + kx * x + sigma * noise, pred

            return Twin(step, tuple(map(torch.from_numpy, (x, output, noise))), (same, same))
        case "adam", (param, grad, _, _, _, _, lr, *_):
            p = torch.from_numpy(param.copy()).requires_grad_()
            p.grad = torch.from_numpy(grad)
            optimizer = torch.optim.Adam([p], lr, fused=True)

            def adam() -> Tensor:
                optimizer.step()
                return p.detach()

            return Twin(adam, (), (same,))
        case "ema", (average, param, decay):
            leaves = (torch.from_numpy(average.copy()), torch.from_numpy(param))
            return Twin(lambda a, p: a.lerp_(p, 1 - decay), leaves, (same,))
    raise ValueError(f"no PyTorch twin of {operation.function}")


def runner(operation: Operation, backward: bool, mode: str) -> Callable[[], Any]:
    """Return the forward or the backward as a function without arguments."""
    run, leaves, _, image = twin(operation, LAYOUTS[mode])
    if backward:
        leaves = tuple(leaf.clone().requires_grad_() for leaf in leaves)
        y, gy = run(*leaves), image(operation.gradient[0])
        return lambda: torch.autograd.grad(y, leaves, gy, retain_graph=True)

    def forward() -> Any:
        with torch.inference_mode():
            return run(*leaves)

    # torch.optim.Adam does not work in inference mode.
    return run if operation.function == "adam" else forward


def in_our_layout(operation: Operation, backward: bool, mode: str, result: Any) -> Any:
    """Convert the result of `runner` to minddpm's layout."""
    back = twin(operation, LAYOUTS[mode]).back
    parts = result if isinstance(result, tuple) else (result,)
    back = back[1:] if backward else back[: len(parts)]
    result = tuple(f(part).numpy() for f, part in zip(back, parts, strict=True))
    return result if len(result) > 1 else result[0]

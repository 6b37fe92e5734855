"""The UNet's blocks. Their parts are named as in diffusers, so that weights load by name.

All images are [N, H, W, C]. Each residual block takes one shift: the time embedding projected to
[N, C_out], or for scale_shift to [N, 2 C_out] with the scales first. The UNet computes all shifts
in one operation before the first block runs, and `shifts` yields them in the order of the blocks.
Attributes are assigned in the order of diffusers' named_parameters().
"""

from collections.abc import Iterator, Sequence
from typing import Any

from minddpm import autodiff as F
from minddpm.autodiff import Tensor
from minddpm.nn import Conv2d, Dropout, GroupNorm, Linear, Module, ModuleList


class ResnetBlock2D(Module):
    """Two 3x3 convolutions with a residual path; the time embedding enters between them."""

    def __init__(self, C_in: int, C_out: int, config: dict[str, Any], scale: float = 1.0):
        groups, eps = config["norm_num_groups"], config["norm_eps"]
        self.scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
        self.scale = scale
        self.norm1 = GroupNorm(groups, C_in, eps)
        self.conv1 = Conv2d(C_in, C_out, 3, padding=1)
        self.time_emb_proj = Linear(config["temb_channels"], C_out * (2 if self.scale_shift else 1))
        self.norm2 = GroupNorm(groups, C_out, eps)
        self.dropout = Dropout(config["dropout"])
        self.conv2 = Conv2d(C_out, C_out, 3, padding=1, zero=True)
        if C_in != C_out:
            self.conv_shortcut = Conv2d(C_in, C_out, 1)

    def forward(self, x: Tensor | tuple[Tensor, ...], shift: Tensor) -> Tensor:
        """x: images, or a tuple of parts along the channels, which are never joined in memory."""
        xs = x if isinstance(x, tuple) else (x,)
        if self.scale_shift:
            # Nichol and Dhariwal 2021: h = norm(h) (1 + scale(t)) + shift(t)
            h = self.norm1.silu_conv(xs, self.conv1)
            C = h.shape[-1]
            scale, shift = shift[:, None, None, :C], shift[:, None, None, C:]
            h = F.silu(self.norm2(h) * (1 + scale) + shift)
            h = self._residual(xs) + self.conv2(self.dropout(h))
        elif self.dropout.active:
            h = self.norm2.silu(self.norm1.silu_conv(xs, self.conv1, shift=shift))
            h = self._residual(xs) + self.conv2(self.dropout(h))
        else:
            h = self.norm1.silu_conv(xs, self.conv1, shift=shift)
            extra = self._shortcut(xs) if hasattr(self, "conv_shortcut") else xs[0]
            h = self.norm2.silu_conv(h, self.conv2, extra=extra)
        return rescale(h, self.scale)

    def _residual(self, xs: tuple[Tensor, ...]) -> Tensor:
        """Return x itself, or its 1x1 convolution if the number of channels changes."""
        return F.linear(*self._shortcut(xs)) if hasattr(self, "conv_shortcut") else xs[0]

    def _shortcut(self, xs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Return the arguments of the 1x1 convolution as a linear layer."""
        w, b = self.conv_shortcut.weight, self.conv_shortcut.bias
        return xs, w.reshape(*w.shape[2:]), b


class Attention(Module):
    """Self-attention over all pixels, with a residual path."""

    def __init__(self, C: int, config: dict[str, Any], groups: int | None, scale: float = 1.0):
        head_dim = config["attention_head_dim"] or C  # None: one head
        self.heads, self.scale = max(1, C // head_dim), scale
        inner = self.heads * head_dim
        if groups is not None:
            self.group_norm = GroupNorm(groups, C, config["norm_eps"])
        self.to_q = Linear(C, inner)
        self.to_k = Linear(C, inner)
        self.to_v = Linear(C, inner)
        self.to_out = ModuleList([Linear(inner, C, zero=True)])

    def forward(self, x: Tensor) -> Tensor:
        N, H, W, C = x.shape
        x = x.reshape(N, H * W, C)
        h = self.group_norm(x) if hasattr(self, "group_norm") else x
        qkv = linears(h, [self.to_q, self.to_k, self.to_v])
        out = self.to_out[0]
        h = F.linear(F.attention(*qkv, self.heads), out.weight, out.bias, extra=x)
        return rescale(h.reshape(N, H, W, C), self.scale)


class Downsample2D(Module):
    """Halves the height and width by a 3x3 convolution of stride 2."""

    def __init__(self, C: int, padding: int):
        # padding 0 is TensorFlow's "SAME", as in the paper: zeros only at the bottom and right.
        self.conv = Conv2d(C, C, 3, stride=2, padding=1 if padding == 1 else ((0, 1), (0, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample2D(Module):
    """Doubles the height and width by repeating pixels, then applies a 3x3 convolution."""

    def __init__(self, C: int):
        self.conv = Conv2d(C, C, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.upsample_conv2d(x, self.conv.weight, self.conv.bias)


class DownBlock2D(Module):
    """One level of the down path; forward also returns the skips for the up path."""

    def __init__(
        self, C_in: int, C_out: int, config: dict[str, Any], attention: bool, downsample: bool
    ):
        layers = config["layers_per_block"]
        if attention:
            self.attentions = ModuleList(
                [Attention(C_out, config, config["norm_num_groups"]) for _ in range(layers)]
            )
        self.resnets = ModuleList(
            [ResnetBlock2D(C_in if i == 0 else C_out, C_out, config) for i in range(layers)]
        )
        if downsample:
            self.downsamplers = ModuleList([Downsample2D(C_out, config["downsample_padding"])])

    def forward(self, x: Tensor, shifts: Iterator[Tensor]) -> tuple[Tensor, list[Tensor]]:
        skips = []
        attentions = getattr(self, "attentions", [identity] * len(self.resnets))
        for resnet, attention in zip(self.resnets, attentions, strict=True):
            x = attention(resnet(x, next(shifts)))
            skips.append(x)
        for downsampler in getattr(self, "downsamplers", []):
            x = downsampler(x)
            skips.append(x)
        return x, skips


class UpBlock2D(Module):
    """One level of the up path; each residual block also takes one skip from the down path.

    C_prev: channels of x from the previous level. C_skip: channels of the last skip, which the
    down path saved before it changed to this level's C_out channels.
    """

    def __init__(
        self,
        C_skip: int,
        C_prev: int,
        C_out: int,
        config: dict[str, Any],
        attention: bool,
        upsample: bool,
    ):
        layers = config["layers_per_block"] + 1  # one more than down, for the downsampler's skip
        if attention:
            self.attentions = ModuleList(
                [Attention(C_out, config, config["norm_num_groups"]) for _ in range(layers)]
            )
        resnets = []
        for i in range(layers):
            C_x = C_prev if i == 0 else C_out
            C_in = C_x + (C_skip if i == layers - 1 else C_out)
            resnets.append(ResnetBlock2D(C_in, C_out, config))
        self.resnets = ModuleList(resnets)
        if upsample:
            self.upsamplers = ModuleList([Upsample2D(C_out)])

    def forward(self, x: Tensor, skips: list[Tensor], shifts: Iterator[Tensor]) -> Tensor:
        attentions = getattr(self, "attentions", [identity] * len(self.resnets))
        for resnet, attention in zip(self.resnets, attentions, strict=True):
            x = attention(resnet((x, skips.pop()), next(shifts)))
        for upsampler in getattr(self, "upsamplers", []):
            x = upsampler(x)
        return x


class UNetMidBlock2D(Module):
    """The lowest level: residual block, attention, residual block."""

    def __init__(self, C: int, config: dict[str, Any]):
        scale = config["mid_block_scale_factor"]
        if config["add_attention"]:
            groups = config["attn_norm_num_groups"]
            if groups is None and config["resnet_time_scale_shift"] == "default":
                # With scale_shift, diffusers has no norm here, so its files have no weights for it.
                groups = config["norm_num_groups"]
            self.attentions = ModuleList([Attention(C, config, groups, scale)])
        self.resnets = ModuleList([ResnetBlock2D(C, C, config, scale) for _ in range(2)])

    def forward(self, x: Tensor, shifts: Iterator[Tensor]) -> Tensor:
        x = self.resnets[0](x, next(shifts))
        for attention in getattr(self, "attentions", []):
            x = attention(x)
        return self.resnets[1](x, next(shifts))


def linears(x: Tensor, layers: Sequence[Linear]) -> tuple[Tensor, ...]:
    """Apply several linear layers to one x in one operation."""
    return F.linears(x, [layer.weight for layer in layers], [layer.bias for layer in layers])


def identity(x: Tensor) -> Tensor:
    """Return x; replaces attention on levels without attention."""
    return x


def rescale(x: Tensor, scale: float) -> Tensor:
    """Return x / scale; scale is 1 in all but a few published models."""
    return x if scale == 1 else x * (1 / scale)

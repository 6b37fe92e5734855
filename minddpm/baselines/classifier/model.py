"""A small classifier of digits, used to judge the samples of the other models.

FID and related metrics compare the features that a network computes from images. Inception v3, the
usual network, was not trained on digits. This network is, in two minutes.
"""

from collections.abc import Sequence

from minddpm.autodiff import Tensor
from minddpm.nn import Conv2d, GroupNorm, Linear, Module, ModuleList


class Classifier(Module):
    """Maps images [N, H, W, C] in [-1, 1] to features [N, widths[-1]], then to logits [N, classes].

    Every level is a convolution and a residual block x + conv(silu(norm(x))); the convolution has
    stride 1 in the first level and stride 2 in the others. The features are means over all
    positions of the last level, so images may have any size.
    """

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (32, 48, 64),
        classes: int = 10,
        groups: int = 8,
    ):
        self.config = {
            "in_channels": in_channels, "widths": list(widths), "classes": classes, "groups": groups
        }  # fmt: skip
        channels = (in_channels, *widths[:-1])
        self.convs = ModuleList(
            [
                Conv2d(C, width, 3, stride=1 if level == 0 else 2, padding=1)
                for level, (C, width) in enumerate(zip(channels, widths, strict=True))
            ]
        )
        self.norms = ModuleList([GroupNorm(groups, width) for width in widths])
        self.blocks = ModuleList([Conv2d(width, width, 3, padding=1) for width in widths])
        self.norm_out = GroupNorm(groups, widths[-1])
        self.linear = Linear(widths[-1], classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the features of x [N, H, W, C], the input of the last layer: [N, widths[-1]]."""
        for conv, norm, block in zip(self.convs, self.norms, self.blocks, strict=True):
            x = conv(x)
            x = norm.silu_conv(x, block, extra=x)
        return self.norm_out.silu(x).mean(axis=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.features(x))

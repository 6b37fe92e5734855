"""A small classifier of digits: the judge of what the other models draw.

FID and its relatives compare pictures by a network's features. Inception v3, the usual one, has
never seen a digit; this one tells 0 from 9, and is small enough to be trained in two minutes.
"""

from collections.abc import Sequence

from minddpm.autodiff import Tensor
from minddpm.nn import Conv2d, GroupNorm, Linear, Module, ModuleList


class Classifier(Module):
    """Pictures [N, H, W, C] in [-1, 1] -> logits [N, classes], through `features` [N, width].

    Every level is a convolution, from the second on with stride 2, and a residual block
    x + conv(silu(norm(x))); the features are the mean over all positions of the last one, so that
    the size of the picture does not matter.
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
        """What the network makes of the pictures before it names a class: [N, widths[-1]]."""
        for conv, norm, block in zip(self.convs, self.norms, self.blocks, strict=True):
            x = conv(x)
            x = norm.silu_conv(x, block, extra=x)
        return self.norm_out.silu(x).mean(axis=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.features(x))

"""Draw the figures of chapter 4; the shapes in the diagrams come from the model itself.

    python docs/tour/figures_network.py                                draws them
    python docs/tour/figures_network.py --model RUN --data-dir DIR     prints the table of skips

RUN: a run directory of examples/train_mnist.py.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import minddpm
from minddpm import Tensor, UNet2D, no_grad, random
from minddpm.data import load_mnist, to_float
from minddpm.kernels import reference
from minddpm.models import PAPER, SMALL
from minddpm.nn import Module
from svg import BLUE, INK, RED, SOFT, Svg

TIMES = "\N{MULTIPLICATION SIGN}"


def named_modules(module: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    """Yield (name, module) for every descendant, with the names of named_parameters()."""
    for name, child in module.children():
        yield prefix + name, child
        yield from named_modules(child, f"{prefix}{name}.")


def without_weights(config: dict) -> UNet2D:
    """Return a UNet of zeros: its shapes are the real ones, and nothing has to be drawn."""

    def zeros(shape: tuple[int, ...], fan_in: int) -> np.ndarray:
        return np.zeros(shape, "float32")

    with mock.patch("minddpm.nn.layers.fan_in_uniform", zeros):
        return UNet2D(**config)


def shapes(unet: UNet2D) -> dict[str, tuple[int, int, int]]:
    """Return H, W, C of the result of each block for one image of the configured size.

    The model runs on the smallest image that it accepts. Sizes are proportional to it.
    """
    found: dict[str, tuple[int, ...]] = {}

    def remember(name: str, module: Module) -> None:
        forward: Callable[..., Any] = module.forward

        def wrapped(*args: Any) -> Any:
            result = forward(*args)
            first = result[0] if isinstance(result, tuple) else result
            found[name] = first.shape[1:]
            return result

        module.forward = wrapped

    for name, module in named_modules(unet):
        remember(name, module)
    C, size = unet.config["in_channels"], unet.config["sample_size"]
    smallest = 2 ** (len(unet.config["block_out_channels"]) - 1)
    scale = size // smallest
    with no_grad():
        unet(np.zeros((1, smallest, smallest, C), "float32"), np.zeros(1, int))
    images = {name: shape for name, shape in found.items() if len(shape) == 3}
    return {name: (H * scale, W * scale, C) for name, (H, W, C) in images.items()}


def count(unet: UNet2D, *parts: str) -> int:
    """Return the number of parameters whose names contain all these parts."""
    return sum(p.size for name, p in unet.named_parameters() if all(x in name for x in parts))


def multiplications(unet: UNet2D) -> dict[int, int]:
    """Return the multiplications of all convolutions for one image, by the height of the result."""
    by_height: dict[int, int] = {}
    sizes = shapes(unet)
    for name, p in unet.named_parameters():
        if p.ndim == 4:
            # The block that contains the convolution, or the convolution itself.
            block = name.removesuffix(".weight")
            while block not in sizes:
                block = block.rpartition(".")[0]
            H, W, _ = sizes[block]
            by_height[H] = by_height.get(H, 0) + p.size * H * W
    return by_height


WIDE, HIGH, GAP = 190, 26, 48  # a box, and the distance from one box to the next
LEFT, RIGHT, TOP = 76, 470, 100  # of the down path, of the up path, of the first box


def unet_diagram(config: dict[str, Any]) -> str:
    """Return an SVG of every block with the shape of its result, and of the skips."""
    unet = without_weights(config)
    sizes, resnets = shapes(unet), unet.down_blocks[0].resnets
    levels, rows = len(config["block_out_channels"]), len(resnets) + 2  # one row free
    bottom = TOP + (levels * rows - 1) * GAP + 14
    svg = Svg(736, bottom + 2 * HIGH + 12)
    for i in range(levels):
        H, W, _ = sizes[f"down_blocks.{i}.resnets.0"]
        y = TOP + i * rows * GAP
        svg.box(8, y - 14, 720, (rows - 1) * GAP + 2, ("#f1f5fa", "#e6eef6")[i % 2])
        svg.text(40, y + 6, f"{H} {TIMES} {W}", SOFT)

    def shape(name: str) -> str:
        return f" {TIMES} ".join(map(str, sizes[name]))

    def block(x: float, y: float, name: str) -> None:
        svg.box(x, y, WIDE, HIGH, "white", SOFT)
        svg.text(x + WIDE / 2, y + HIGH / 2, label(unet, name))

    # Down: the blocks whose results become skips, with the row of each.
    down = [("conv_in", 0)]
    for i in range(levels):
        down += [(f"down_blocks.{i}.resnets.{j}", i * rows + j + 1) for j in range(len(resnets))]
        if i < levels - 1:
            down.append((f"down_blocks.{i}.downsamplers.0", (i + 1) * rows))
    middle = LEFT + WIDE / 2
    size = config["sample_size"]
    svg.text(middle, TOP - 62, f"x: {size} {TIMES} {size} {TIMES} {config['in_channels']}")
    svg.arrow(middle, TOP - 52, middle, TOP)
    for name, row in down:
        block(LEFT, TOP + row * GAP, name)
    for (name, row), (_, next_row) in pairwise(down):
        y = TOP + next_row * GAP
        svg.arrow(middle, TOP + row * GAP + HIGH, middle, y)
        svg.text(middle + 8, y - 11, shape(name), BLUE, "start")

    # Up, from the lowest row: each residual block beside the skip that it takes.
    up, skips = [], list(down)
    for i in range(levels):
        for j in range(len(resnets) + 1):
            skip, row = skips.pop()
            y = TOP + row * GAP + HIGH / 2
            svg.arrow(LEFT + WIDE, y, RIGHT, y, RED, dashed=True)
            svg.text((LEFT + WIDE + RIGHT) / 2, y - 10, shape(skip), RED)
            up.append((f"up_blocks.{i}.resnets.{j}", row))
        if i < levels - 1:
            up.append((f"up_blocks.{i}.upsamplers.0", row - 1))
    up.append(("conv_out", -1))
    middle = RIGHT + WIDE / 2
    for name, row in up:
        block(RIGHT, TOP + row * GAP, name)
    for (name, row), (_, next_row) in pairwise(up):
        svg.arrow(middle, TOP + row * GAP, middle, TOP + next_row * GAP + HIGH)
        svg.text(middle + 8, TOP + row * GAP - 11, shape(name), BLUE, "start")
    svg.arrow(middle, TOP - GAP, middle, TOP - GAP - 24)
    svg.text(middle, TOP - GAP - 34, f"epsilon: {shape('conv_out')}")

    # The middle block, below both paths.
    svg.box(LEFT + 90, bottom, RIGHT - LEFT + 10, 2 * HIGH, "#fdf3e7", "#d8a35d")
    middle = LEFT + 95 + (RIGHT - LEFT) / 2
    svg.text(middle, bottom + 14, "mid_block: resnet, attention, resnet")
    svg.text(middle, bottom + 36, shape("mid_block"), BLUE)
    last, row = down[-1]
    x, y = LEFT + WIDE / 2 + 20, TOP + row * GAP + HIGH
    svg.arrow(x, y, x, bottom)
    svg.text(x + 8, y + 20, shape(last), BLUE, "start")
    svg.arrow(RIGHT + WIDE / 2 - 20, bottom, RIGHT + WIDE / 2 - 20, y)
    return str(svg)


def label(unet: UNet2D, name: str) -> str:
    """Return what the diagram calls a block: a residual block by its channels in and out."""
    block, _, part = name.partition(".resnets.")
    if not part:
        last = name.removesuffix(".0").rpartition(".")[2].removesuffix("s")
        return "norm, SiLU, conv_out" if name == "conv_out" else last
    modules = dict(named_modules(unet))
    _, _, C_in, C_out = modules[name].conv1.weight.shape
    attention = ", attention" if f"{block}.attentions.0" in modules else ""
    return f"resnet {C_in} → {C_out}{attention}"


FEATURES = (3, 6, 9, 12, 15)


def features_diagram() -> str:
    """Return an SVG of the cosine and the sine of five of SMALL's 16 angles over t = 0 .. 999."""
    svg, t = Svg(740, 30 + 70 * len(FEATURES)), np.arange(0, 1000, 4)
    features = reference.timestep_features(t, 32, 0.0, True, "float64")
    for row, i in enumerate(FEATURES):
        middle = 60 + 70 * row
        period = 2 * np.pi * 10000 ** (i / 16)
        svg.text(12, middle - 9, f"i = {i}", INK, "start")
        svg.text(12, middle + 9, f"period {period:,.0f}", SOFT, "start")
        for column, colour in ((i, BLUE), (16 + i, RED)):
            svg.line(130 + 0.6 * t, middle - 28 * features[:, column], colour)
    svg.text(130, 18, "t = 0", SOFT)
    svg.text(730, 18, "t = 999", SOFT, "end")
    return str(svg)


MIDDLE = -1  # the result of the middle block instead of a skip


def of_next(x: Tensor) -> Tensor:
    """Return x with the images of the batch moved on by one."""
    return Tensor(np.roll(x.data, 1, axis=0))


def loss(model: UNet2D, x_t: np.ndarray, t: int, noise: np.ndarray, foreign: list[int]) -> float:
    """Return the mean squared error if these skips come from the next image of the batch.

    foreign: numbers of skips in the order in which they are saved, or MIDDLE.
    """
    up = model.up_blocks[0]  # the first to take skips; all take them from one list
    forward = up.forward

    def exchanged(x: Tensor, skips: list[Tensor], shifts: Iterator[Tensor]) -> Tensor:
        for i in foreign:
            if i == MIDDLE:
                x = of_next(x)
            else:
                skips[i] = of_next(skips[i])
        return forward(x, skips, shifts)

    with no_grad(), mock.patch.object(up, "forward", exchanged):
        eps = model(x_t, np.full(len(x_t), t))
    return float(np.square(eps.data - noise).mean())


def print_skips(run: Path, data_dir: Path | None) -> None:
    """Print the loss at several t of a model whose skips of one level are another image's."""
    model, diffusion = minddpm.load(run)
    x0 = to_float(load_mnist(data_dir).images[:128])
    noise = random.normal(x0.shape, 1, random.NOISE)
    cases = {
        "none": [],
        "conv_in alone": [0],
        f"28 {TIMES} 28": [0, 1, 2],
        f"14 {TIMES} 14": [3, 4, 5],
        f"7 {TIMES} 7": [6, 7, 8],
        "middle block": [MIDDLE],
        f"all but 28 {TIMES} 28": [3, 4, 5, 6, 7, 8, MIDDLE],
    }
    ts = (5, 50, 100, 200, 400, 700, 999)
    print("| exchanged | " + " | ".join(f"t = {t}" for t in ts) + " |")
    print("| --- |" + " ---: |" * len(ts))
    for name, foreign in cases.items():
        x_ts = [diffusion.q_sample(x0, np.full(len(x0), t), noise) for t in ts]
        values = [loss(model, x_t, t, noise, foreign) for x_t, t in zip(x_ts, ts, strict=True)]
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder")
    parser.add_argument("--model", type=Path, help="a run directory of train_mnist.py")
    parser.add_argument("--data-dir", type=Path, help="folder with the four IDX files of MNIST")
    args = parser.parse_args()
    if args.model:
        print_skips(args.model, args.data_dir)
        return
    minddpm.set_backend("numpy")
    (args.out / "unet.svg").write_text(unet_diagram(SMALL))
    (args.out / "unet_paper.svg").write_text(unet_diagram(PAPER))
    (args.out / "timestep_features.svg").write_text(features_diagram())


if __name__ == "__main__":
    main()

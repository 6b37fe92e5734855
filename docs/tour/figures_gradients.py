"""Draw the figures of chapter 5; the numbers in the diagrams come from the real backward.

    python docs/tour/figures_gradients.py [--out DIR]

The default folder is this one.
"""

import argparse
from pathlib import Path

import numpy as np

import minddpm
from minddpm import Tensor
from minddpm.autodiff.graph import Gradients, topological_order
from minddpm.kernels import reference
from svg import BLUE, INK, RED, SOFT, Svg


class Logged(Gradients):
    """Gradients that remember what was added to which tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.added: list[tuple[Tensor, float]] = []

    def add(self, x: Tensor, gx: np.ndarray) -> None:
        self.added.append((x, gx.item()))
        super().add(x, gx)


class Example:
    """y = p * s, s = p + x, p = x * w, with every gradient that flows along an edge."""

    def __init__(self) -> None:
        x = Tensor(np.array([2.0]), requires_grad=True)
        w = Tensor(np.array([3.0]), requires_grad=True)
        p = x * w
        s = p + x
        y = p * s
        self.nodes = {"x": x, "w": w, "p": p, "s": s, "y": y}
        self.order = topological_order(y)

    def name(self, of: int) -> str:
        """Return the name of the node that has this id, or whose function has it."""
        return next(n for n, x in self.nodes.items() if of in (id(x), id(x.creator)))

    def edges(self) -> list[tuple[str, str, float]]:
        """Return (result, input, gradient) in the order in which backward() adds them."""
        gradients, edges = Logged(), []
        gradients.add(self.nodes["y"], np.ones(1))
        for function in self.order:
            before = len(gradients.added)
            function.run_backward(gradients)
            result = self.name(id(function))
            edges += [(result, self.name(id(x)), gx) for x, gx in gradients.added[before:]]
        gradients.add_to_leaves()
        return edges


PLACES = {"x": (80, 70), "w": (80, 270), "p": (280, 210), "s": (460, 70), "y": (640, 140)}
FORMULAS = {"x": "x", "w": "w", "p": "p = x · w", "s": "s = p + x", "y": "y = p · s"}


def graph_diagram() -> str:
    """Return the example with the value of each node and the gradient on each edge."""
    example = Example()
    edges = example.edges()
    total = {name: sum(gx for _, to, gx in edges if to == name) for name in PLACES} | {"y": 1.0}
    svg = Svg(740, 340)
    order = [example.name(id(function)) for function in example.order]
    for result, name, gx in edges:
        (x1, y1), (x2, y2) = PLACES[name], PLACES[result]
        right, left = (x1 + 58, y1), (x2 - 58, y2)
        svg.arrow(*right, *left)
        svg.text((x1 + x2) / 2, (y1 + y2) / 2 - 12, f"{gx:g}", RED)
    for name, (x, y) in PLACES.items():
        svg.box(x - 58, y - 34, 116, 68, "#f1f5fa" if name in "xw" else "white", SOFT)
        svg.text(x, y - 20, FORMULAS[name])
        svg.text(x, y, f"{example.nodes[name].item():g}", BLUE)
        svg.text(x, y + 20, f"gradient {total[name]:g}", RED)
        if name in order:
            svg.text(x, y - 46, f"backward {order.index(name) + 1}", SOFT)
    svg.text(370, 325, "blue: values, left to right; red: gradients, right to left", SOFT)
    return str(svg)


WEIGHTS, GY, STRIDE = (1, 2, 3), (10, 20), 2


def row_gradient() -> list[int]:
    """Return gx of a convolution of five pixels in one row, from the real backward."""
    w, gy = np.array(WEIGHTS, "float64"), np.array(GY, "float64")
    gx, _, _ = reference.conv2d_backward(
        gy.reshape(1, 1, 2, 1), np.zeros((1, 1, 5, 1)), w.reshape(1, 3, 1, 1), STRIDE,
        ((0, 0), (0, 0)),
    )  # fmt: skip
    return [int(g) for g in gx.ravel()]


def convolution_diagram() -> str:
    """Return a row of five pixels, a window of three and a stride of two, backwards in two ways."""
    gx, svg, cell = row_gradient(), Svg(740, 330), 44

    def cells(x: float, y: float, values: list, fill: str = "white") -> list[float]:
        """Draw a row of cells; return their middles."""
        middles = [x + (i + 0.5) * cell for i in range(len(values))]
        for middle, value in zip(middles, values, strict=True):
            svg.box(middle - cell / 2, y, cell, 30, fill, SOFT)
            svg.text(middle, y + 15, str(value))
        return middles

    svg.text(150, 22, "each gy adds a window to gx")
    xs, ys = cells(60, 230, gx, "#f1f5fa"), cells(104, 70, list(GY), "#fdf3e7")
    svg.text(30, 245, "gx")
    svg.text(30, 85, "gy")
    for i, y in enumerate(ys):
        for k, w in enumerate(WEIGHTS):
            x = xs[i * STRIDE + k]
            svg.arrow(y, 100, x, 230, (BLUE, RED)[i])
            svg.text(y + (x - y) * 0.7 + (-9, 9)[i], 100 + 130 * 0.7, str(w), (BLUE, RED)[i])

    svg.text(540, 22, "the same as a convolution")
    padding = len(WEIGHTS) - 1
    spread = [0] * padding + [GY[0], 0, GY[1]] + [0] * padding
    middles = cells(400, 70, spread, "#fdf3e7")
    at = 2  # the window whose result is gx[2]
    cells(middles[at] - cell / 2, 130, list(WEIGHTS[::-1]))
    svg.text(middles[at] - 30, 145, "rotated w:", INK, "end")
    svg.text(554, 54, "gy with zeros between (stride) and around (window)", SOFT)
    results = cells(444, 230, gx, "#f1f5fa")
    svg.arrow(middles[at + 1], 160, results[at], 230)
    products = " + ".join(f"{s}·{w}" for s, w in zip(spread[at:], WEIGHTS[::-1], strict=False))
    svg.text(middles[at + 1] + 10, 195, f"{products} = {gx[at]}", INK, "start")
    svg.text(370, 300, f"w = {WEIGHTS}, gy = {GY}, stride 2", SOFT)
    return str(svg)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder")
    args = parser.parse_args()
    minddpm.set_backend("numpy")
    (args.out / "graph.svg").write_text(graph_diagram())
    (args.out / "convolution_gradient.svg").write_text(convolution_diagram())


if __name__ == "__main__":
    main()

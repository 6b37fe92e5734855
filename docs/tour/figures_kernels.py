"""Draw the figures of chapters 6 and 7 from the kernels' own tables.

    python docs/tour/figures_kernels.py [--out DIR]

Measured times come from kernels/README.md, counted bytes from chapter 7b; nothing is measured here.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from minddpm.kernels.cpu.ladder.winograd_tiles import AT, BT, G
from svg import BLUE, INK, RED, SOFT, Svg

FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "kernels" / "README.md"
CHAPTER = FOLDER / "07b-winograd-and-tensor-cores.md"
LAYER = "conv 28x28 32->32"
PALE, GREEN, SAND = "#dfe8f2", "#4a8a5a", "#f3e6c8"


def table(file: Path, marker: str) -> list[list[str]]:
    """Return the cells of a Markdown table behind a marker, without its heading."""
    text = file.read_text().split(f"<!-- {marker} -->\n")[1]
    rows = []
    for line in text.split("\n")[2:]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def measured(layer: str) -> dict[str, float]:
    """Return GFLOP/s of each rung and of PyTorch's layouts for a convolution."""
    rows = table(README, "benchmark:conv")
    return {row[1]: float(row[3]) for row in rows if row[0] == layer}


def peak() -> tuple[float, float]:
    """Return the peak of two threads in GFLOP/s, and the bandwidth in GB/s."""
    row = table(README, "benchmark:peak")[-1]
    return float(row[1]), float(row[4])


def intensity(H: int, C: int, K: int, N: int = 128) -> float:
    """Return the operations of a 3x3 convolution for each byte of x, w and y."""
    pixels = N * H * H
    return 2 * pixels * 9 * C * K / (4 * (pixels * (C + K) + 9 * C * K))


# --- lines and bars ------------------------------------------------------------------------------


def line(svg: Svg, points: list[tuple[float, float]], colour: str, width: float = 2) -> None:
    path = "L".join(f"{x:g} {y:g}" for x, y in points)
    svg.parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>')


def dot(svg: Svg, x: float, y: float, colour: str) -> None:
    svg.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="4" fill="{colour}"/>')


def bars(
    values: dict[str, float], title: str, label: str, log: bool = False, mark: float = 0
) -> Svg:
    """Return a chart with a horizontal bar for each value, and a line at `mark`.

    label: a format of the number. log: lengths are logarithms, from a power of ten.
    """
    left, width, height = 190, 360, 26
    svg = Svg(left + width + 110, 46 + height * len(values) + 12)
    svg.text(12, 22, title, anchor="start")
    low = 10 ** math.floor(math.log10(min(values.values()))) if log else 0
    most = max(values.values())
    if mark:
        x = left + width * mark / most
        line(svg, [(x, 38), (x, 46 + height * len(values))], RED, 1.5)
        svg.text(x + 4, 32, f"peak {mark:.0f}", RED, "start")
    for i, (name, value) in enumerate(values.items()):
        share = math.log(value / low) / math.log(most / low) if log else value / most
        y = 46 + height * i
        svg.text(left - 8, y + 9, name, anchor="end")
        svg.box(left, y, width * share, 18, "#bbbbbb" if "PyTorch" in name else BLUE)
        svg.text(left + width * share + 8, y + 9, label.format(value), anchor="start")
    return svg


def cpu_ladder() -> Svg:
    """Draw the rungs of one layer, and the peak."""
    title = f"{LAYER}, batch 128: effective GFLOP/s"
    return bars(measured(LAYER), title, "{:.0f}", mark=peak()[0])


def cuda_ladder() -> Svg:
    """Draw the bytes that each rung reads from global memory."""
    rows = table(CHAPTER, "counted: ladder")
    values = {row[0]: float(row[2].replace(",", "")) for row in rows}
    return bars(
        values,
        "Bytes read from global memory, counted (logarithmic from 100,000)",
        "{:,.0f}",
        log=True,
    )


def roofline() -> Svg:
    """Draw the machine's roof over operations per byte, and the rungs of one layer below it."""
    most, bandwidth = peak()
    left, top, width, height, low, high = 70, 46, 470, 260, 1 / 8, 256
    floor, ceiling = 4, 1024

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + width * math.log(x / low) / math.log(high / low),
            top + height * (1 - math.log(y / floor) / math.log(ceiling / floor)),
        )

    svg = Svg(left + width + 40, top + height + 56)
    svg.text(12, 22, f"The roof of two threads, and {LAYER}: GFLOP/s", anchor="start")
    for y in (4, 16, 64, 256, 1024):
        line(svg, [at(low, y), at(high, y)], "#e4e4e4", 1)
        svg.text(left - 10, at(low, y)[1], f"{y}", SOFT, "end")
    for x in (1 / 8, 1 / 2, 2, 8, 32, 128):
        svg.text(at(x, floor)[0], top + height + 16, f"{x:g}", SOFT)
    svg.text(left + width / 2, top + height + 38, "operations for each byte of memory", SOFT)
    knee = most / bandwidth
    line(svg, [at(low, low * bandwidth), at(knee, most), at(high, most)], INK)
    svg.text(*at(0.6, 130), f"{bandwidth:.0f} GB/s")
    x, y = at(intensity(28, 32, 32), most)
    svg.text(x + 12, y + 16, f"{most:.0f} GFLOP/s", anchor="start")
    shown = {name: rate for name, rate in measured(LAYER).items() if "PyTorch" not in name}
    place = intensity(28, 32, 32)
    for name, rate in shown.items():
        x, y = at(place, rate)
        above = rate > most
        dot(svg, x, y, RED if above else BLUE)
        svg.text(x - 10, y, name, RED if above else BLUE, "end")
    return svg


# --- the register tile, a Winograd tile ----------------------------------------------------------


def register_tile() -> Svg:
    """Draw one step of the AVX-512 tile: 14 rows of A, two vectors of B, 28 sums."""
    rows, cell, left, top = 14, 17, 180, 96
    svg = Svg(560, top + rows * cell + 60)
    svg.text(280, 20, "For each d: 2 loads, 14 broadcasts, 28 multiply-adds of 16 numbers")
    for j in range(2):
        x = left + j * 150
        svg.box(x, 52, 140, cell, SAND, SOFT)
        svg.text(x + 70, 61, f"B[d, {j}, 0 .. 15]")
    for m in range(rows):
        y = top + m * cell
        svg.box(120, y, 36, cell - 2, PALE, SOFT)
        svg.text(112, y + 7, f"A[{m}, d]" if m in (0, 1, rows - 1) else "", anchor="end")
        for j in range(2):
            svg.box(left + j * 150, y, 140, cell - 2, "#eef5ee", SOFT)
    svg.text(left + 70, top + 7, "sums[0, 0]")
    svg.text(left + 220, top + 7, "sums[0, 1]")
    svg.arrow(138, top + 7, left - 2, top + 7)
    svg.arrow(left + 70, 70, left + 70, top - 3)
    svg.arrow(left + 220, 70, left + 220, top - 3)
    bottom = top + rows * cell + 22
    svg.text(280, bottom, "28 + 2 + 1 of the 32 registers", SOFT)
    svg.text(280, bottom + 20, "A: one number in all lanes.  B: 16 output channels a vector", SOFT)
    return svg


TILE = np.array([[1, 2, 0, 1], [0, 1, 3, 1], [2, 1, 0, 2], [1, 0, 1, 3]])
WINDOW = np.array([[1, 0, 2], [0, 4, 0], [2, 0, -2]])


def winograd_numbers() -> tuple[np.ndarray, ...]:
    """Return V, U, their product, and Y of the figure's tile."""
    V = BT[2] @ TILE @ BT[2].T
    U = G[2] @ WINDOW @ G[2].T
    return V, U, V * U + 0.0, AT[2] @ (V * U) @ AT[2].T


def winograd_tile() -> Svg:
    """Draw one tile of F(2x2) with its numbers."""
    svg = Svg(790, 330)
    V, U, M, Y = winograd_numbers()

    def matrix(
        x: float, y: float, values: np.ndarray, name: str, fill: str, cell: int = 36
    ) -> None:
        svg.text(x + cell * values.shape[1] / 2, y - 14, name)
        for (i, j), value in np.ndenumerate(values):
            svg.box(x + cell * j, y + 28 * i, cell - 2, 26, fill, SOFT)
            svg.text(x + cell * j + cell / 2 - 1, y + 28 * i + 13, f"{value:g}")

    matrix(20, 40, TILE, "x, 4 x 4 pixels", PALE)
    matrix(20 + 18, 208, WINDOW, "w, 3 x 3", SAND)
    matrix(250, 40, V, "V = Bᵀ x B", PALE)
    matrix(250, 208, U, "U = G w Gᵀ", SAND)
    matrix(460, 124, M, "V ⊙ U: 16 products", "#eef5ee", 40)
    matrix(680, 152, Y, "Y = Aᵀ (V ⊙ U) A", "#eef5ee", 40)
    svg.arrow(170, 95, 244, 95)
    svg.arrow(152, 250, 244, 262)
    svg.arrow(398, 100, 454, 160)
    svg.arrow(398, 262, 454, 205)
    svg.arrow(624, 180, 674, 180)
    svg.text(208, 80, "add", SOFT)
    svg.text(200, 240, "once", SOFT)
    return svg


# --- the GPU -------------------------------------------------------------------------------------


def sectors() -> Svg:
    """Draw which sectors of 32 bytes a warp's reads touch: 16 numbers apart, or neighbours."""
    lanes, size, left = 32, 19, 16
    svg = Svg(left * 2 + 34 * size, 330)

    def memory(y: float, title: str, touched: dict[int, int], count: int, note: str) -> None:
        svg.text(left, y, title, anchor="start")
        for lane in range(lanes):
            svg.box(left + lane * size, y + 16, size - 2, 15, PALE, SOFT)
        for i in range(count):
            used = touched.get(i, 0)
            x = left + i * size
            svg.box(x, y + 92, size - 2, 24, "white", SOFT)
            svg.box(
                x, y + 92 + 24 * (1 - used / 8), size - 2, 24 * used / 8, BLUE if used else "white"
            )
        for lane in range(lanes):
            sector = lane * stride // 8
            if sector < count:
                x = left + lane * size + size / 2
                line(svg, [(x, y + 32), (left + sector * size + size / 2, y + 91)], "#9db4cc", 0.8)
        svg.text(left, y + 132, note, SOFT, "start")

    stride = 16
    found: dict[int, int] = {}
    for lane in range(lanes):
        found[lane * stride // 8] = found.get(lane * stride // 8, 0) + 1
    total = len(found)
    memory(
        18, "Rung 1: lanes 0 to 31 read numbers that are 16 apart (64 bytes)", found, 34,
        f"{total} sectors, 4 of the 32 bytes used in each (the first 34 sectors of 64 are drawn)",
    )  # fmt: skip
    stride = 1
    found = {}
    for lane in range(lanes):
        found[lane // 8] = found.get(lane // 8, 0) + 1
    memory(
        184, "Rung 2: lanes 0 to 31 read neighbours", found, 34,
        f"{len(found)} sectors, all 32 bytes used in each",
    )  # fmt: skip
    return svg


def tile_flow() -> Svg:
    """Draw how tiles flow from global memory to the sums of rung 4, and when."""
    svg = Svg(700, 400)
    for x, y, w, h, fill, *text in (
        (16, 50, 130, 70, PALE, "global memory", "x, w"),
        (206, 50, 130, 70, SAND, "registers", "the next tile"),
        (396, 40, 140, 40, "#eef5ee", "shared memory, half 0"),
        (396, 90, 140, 40, "#eef5ee", "shared memory, half 1"),
        (596, 50, 90, 70, SAND, "registers", "8 x 8 sums"),
    ):
        svg.box(x, y, w, h, fill, SOFT)
        for i, words in enumerate(text):
            svg.text(x + w / 2, y + h / 2 + 18 * i - 9 * (len(text) - 1), words)
    svg.arrow(148, 85, 202, 85)
    svg.text(175, 70, "16 bytes", SOFT)
    svg.arrow(338, 85, 392, 108)
    svg.arrow(538, 62, 592, 80)
    svg.text(565, 52, "8 + 8", SOFT)
    svg.text(640, 140, "64 products", SOFT)
    svg.text(16, 190, "One warp over time:", anchor="start")
    names = ("fetch", "multiply", "store", "barrier")
    for i, name in enumerate(names):
        svg.text(88, 222 + 34 * i, name, anchor="end")
    for step in range(4):
        x = 100 + step * 145
        svg.box(x, 210, 120, 22, PALE, SOFT)
        svg.text(x + 60, 221, f"tile {step + 1} begins" if step < 3 else "none left")
        svg.box(x + 6, 244, 108, 22, "#eef5ee", SOFT)
        svg.text(x + 60, 255, f"tile {step}, half {step % 2}")
        if step < 3:
            svg.box(x + 84, 278, 46, 22, SAND, SOFT)
            svg.text(x + 107, 289, f"half {(step + 1) % 2}")
        line(svg, [(x + 137, 312), (x + 137, 334)], RED, 3)
        line(svg, [(x + 137, 206), (x + 137, 308)], "#eeb9b3", 1)
    svg.text(
        350, 368, "Tile 0 is multiplied while tile 1 is on its way from memory: one barrier a tile",
        SOFT,
    )  # fmt: skip
    return svg


def fragments() -> Svg:
    """Draw which lane holds which number of c, 16 x 8, and which word of a, 16 x 32 bytes."""
    svg, cell = Svg(700, 410), 34
    for x, title in ((40, "c: 16 rows, 8 columns"), (390, "a: 16 rows, 32 bytes deep")):
        svg.text(x, 22, title, anchor="start")
        for row in range(16):
            for column in range(8):
                if x == 40:  # c[0], c[1]: columns 2t and 2t + 1 of row g; c[2], c[3]: row g + 8
                    lane, number = row % 8 * 4 + column // 2, row // 8 * 2 + column % 2
                else:  # a[0]: word t of row g; a[1]: row g + 8; a[2], a[3]: 16 bytes further
                    lane, number = row % 8 * 4 + column % 4, row // 8 + column // 4 * 2
                fill = SAND if lane == 6 else ("#ffffff", PALE, "#eef5ee", "#f2eef7")[number]
                y = 40 + 22 * row
                svg.box(x + cell * column, y, cell - 2, 20, fill, SOFT)
                svg.text(x + cell * column + cell / 2 - 1, y + 10, f"{lane}")
    svg.text(
        350, 400, "the number of the lane; its four registers in four colours, lane 6 marked", SOFT
    )
    return svg


FIGURES = {
    "roofline_cpu": roofline,
    "ladder_cpu": cpu_ladder,
    "register_tile": register_tile,
    "winograd_tile": winograd_tile,
    "sectors": sectors,
    "tile_flow": tile_flow,
    "fragments": fragments,
    "ladder_cuda": cuda_ladder,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder")
    args = parser.parse_args()
    for name, draw in FIGURES.items():
        (args.out / f"{name}.svg").write_text(str(draw()))


if __name__ == "__main__":
    main()

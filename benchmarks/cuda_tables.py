"""Analyse the CUDA kernels without a GPU: the tables and the roofline of kernels/cuda/README.md.

    python benchmarks/cuda_tables.py                  # print all tables, 17 minutes
    python benchmarks/cuda_tables.py --only crossings # some of them
    python benchmarks/cuda_tables.py --write          # and write them into kernels/cuda/README.md

Compiled code needs the compiler's wheels, pip install -e ".[nvrtc]"; sectors need g++, the rest is
arithmetic.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from cases import CONVOLUTIONS, TABLE_BATCH
from minddpm import drawing
from minddpm.commands import cli
from minddpm.errors import InputError
from minddpm.kernels import cuda
from minddpm.kernels.cuda import ladder
from minddpm.kernels.cuda.analysis.compile import ARCHITECTURES, Program, compile
from minddpm.kernels.cuda.analysis.disassembly import Code, Instructions, count, disassemble
from minddpm.kernels.cuda.analysis.mainloop import Loop, main_loops
from minddpm.kernels.cuda.analysis.occupancy import WARP, occupancy
from minddpm.kernels.cuda.analysis.roofline import (
    CARDS,
    Card,
    Layer,
    crossing,
    direct,
    tensor_cores,
    winograd,
    winograd_seconds,
)
from schedule_table import schedules
from sector_table import sectors
from tables import ROOT, markdown, write

FILE = ROOT / "kernels" / "cuda" / "README.md"
ROOFLINE = ROOT / "docs" / "roofline.png"
COUNTED = 80  # instructions are counted for the A100; other architectures hardly differ
ANY_BLOCK = 256  # block size assumed for a kernel without __launch_bounds__
SIZES = (28, 14, 7)
CEILINGS = (75, 80, 86, 89, 90)
CONVOLUTION = "conv2d", "conv2d_gradient_x", "conv2d_gradient_w", "conv2d_gradients"
SHORTCUT = "conv2d_shortcut", "conv2d_shortcut_gradients"
TILES = {  # name: file, macros, kernels
    "128 x 64": ("conv4_registers.cu", (), CONVOLUTION),
    "128 x 32": ("conv4_registers.cu", ("COLUMNS=32",), CONVOLUTION),
    "64 x 64": ("conv4_registers.cu", ("TILE=64",), CONVOLUTION),
    "64 x 32": ("conv4_registers.cu", ("TILE=64", "COLUMNS=32"), CONVOLUTION),
    "128 x 32, stride 2": (
        "conv4_registers.cu",
        ("STRIDE=2", "COLUMNS=32"),
        ("conv2d_gradients",),
    ),
    "128 x 64, shortcut": ("conv4_registers.cu", (), SHORTCUT),
    "128 x 32, shortcut": ("conv4_registers.cu", ("COLUMNS=32",), SHORTCUT),
    "linears": ("linears.cu", (), ("linears", "linears_backward")),
    "Winograd, fused": ("conv5_fused.cu", (), ("conv2d_fused",)),
    "Winograd": ("conv5_winograd.cu", (), ("at_points", "weights_at_points")),
    "heads of 8": ("attention.cu", (), ("attention", "attention_gradients")),
    "heads of 64": ("attention.cu", ("LANES=8",), ("attention", "attention_gradients")),
}
# Instructions for 256 FFMA, and how busy the FMA unit can be, by the same model, in commit 3838e92:
# a tile of 64 rows, 4 x 4 results a thread, and divisions for each address.
BEFORE = {  # columns, kernel
    ("64", "conv2d"): ("458/454/455/455/467", "80/80/56/56/55"),
    ("64", "conv2d_gradient_x"): ("544/547/546/546/560", "74/72/47/47/46"),
    ("64", "conv2d_gradient_w"): ("451/451/451/451/461", "83/83/57/57/56"),
    ("64", "conv2d_gradients"): ("548/549/569/569/583", "73/73/45/45/44"),
    ("32", "conv2d"): ("600/593/596/596/637", "68/69/43/43/40"),
    ("32", "conv2d_gradient_x"): ("731/721/723/723/752", "60/60/35/35/34"),
    ("32", "conv2d_gradient_w"): ("588/592/587/587/627", "70/69/44/44/41"),
    ("32", "conv2d_gradients"): ("731/717/751/751/769", "60/61/34/34/33"),
}
# The formats of conv6_tensor.cu: macros, and bytes of a number of x.
TENSOR = {"half": ((), 4), "half, x stored": (("STORED",), 2), "TF32": (("TF32",), 4)}
TENSOR_COLUMNS = {64: ((), 64), 32: (("COLUMNS=32",), 128)}  # macros, rows
TENSOR_PRODUCTS = 32 * 32 * 16  # for which instructions are counted
MAX_CHANNELS = 4096  # the largest number that crossings() tries
Table = tuple[list[str], list[list[str]]]


def compiled() -> Table:
    """Return the resources and the instructions of every kernel on each card."""
    rows = []
    for file in tqdm(cuda.files(), unit="file"):
        programs = {a: compile(file, a) for a in ARCHITECTURES}
        code = disassemble(programs[COUNTED].cubin)
        names = dict.fromkeys(name for program in programs.values() for name in program.kernels)
        rows += [
            [f"{file.stem}: {name}", *_needs(name, programs), *_counts(code.get(name))]
            for name in names
        ]
    head = ["kernel", "block", "registers", "shared, bytes", "occupancy, %", "stack, at most"]
    head += ["spills, at most", "instructions", "FFMA", "tensor", "wide LDG", "wide LDS"]
    return [*head, "wide STG", "local"], rows


def _needs(name: str, programs: dict[int, Program]) -> list[str]:
    needs = {a: p.kernels[name] for a, p in programs.items() if name in p.kernels}
    first = next(iter(needs.values()))
    block, shared = first.threads or ANY_BLOCK, max(need.shared for need in needs.values())
    registers, percent = [], []
    for a in (card.architecture for card in CARDS):
        need = needs.get(a)  # None if this architecture has no such kernel
        part = occupancy(a, block, need.registers, need.shared) if need else 0.0
        registers.append(f"{need.registers}" if need else "-")
        percent.append(f"{100 * part:.0f}" if need else "-")
    return [
        f"{first.threads or 'any'}",
        "/".join(registers),
        f"{shared}",
        "/".join(percent),
        f"{max(need.stack for need in needs.values())}",
        f"{max(need.spills for need in needs.values())}",
    ]


def _counts(code: Code | None) -> list[str]:
    return [f"{n}" for n in count(code)] if code else ["-"] * len(Instructions._fields)


def ceilings() -> Table:
    """Return how busy the main loops of the products can keep the cards' units at most."""
    rows = []
    for name, (file, defines, kernels) in tqdm(TILES.items(), unit="tile"):
        for kernel in kernels:
            loops = {a: slowest_loop(file, kernel, a, defines) for a in CEILINGS}
            per_256 = _for_256_ffma([(loop.instructions, loop) for loop in loops.values()])
            busy = (f"{100 * loop.ceiling(a):.0f}" for a, loop in loops.items())
            limits = dict.fromkeys(loop.limit for loop in loops.values())
            divisions = max(loop.divisions for loop in loops.values())
            cells = per_256, "/".join(busy), "/".join(limits), str(divisions)
            before = BEFORE.get((name.rpartition(" x ")[2], kernel), ("-", "-"))
            rows.append([f"{name}: {kernel}", *cells, *before])
    head = ["main loop", "instructions for 256 FFMA", "FMA unit busy, %, at most", "set by"]
    return [*head, "divisions or 2^x", "instructions in 3838e92", "busy in 3838e92, %"], rows


def cycles() -> Table:
    """Return the cycles that rung 4's tiles of 128 rows take of each unit, and what they load."""
    rows, units = [], ("issue", "FMA", "integers", "special functions", "shared memory")
    tiles = {name: tile for name, tile in TILES.items() if name.startswith("128")}
    for name, (file, defines, kernels) in tqdm(tiles.items(), unit="tile"):
        for kernel in kernels:
            loops = [slowest_loop(file, kernel, card.architecture, defines) for card in CARDS]
            cells = [_for_256_ffma([(loop.cycles[unit], loop) for loop in loops]) for unit in units]
            loads = _for_256_ffma([(loop.loads, loop) for loop in loops])
            rows.append([f"{name}: {kernel}", *cells, loads])
    return ["cycles for 256 FFMA", *units, "bytes loaded by a thread"], rows


def _for_256_ffma(amounts: list[tuple[int, Loop]]) -> str:
    """Return what each card's loop takes for 256 FFMA; amounts: of an iteration, and its loop."""
    return "/".join(f"{256 * amount / loop.arithmetic:.0f}" for amount, loop in amounts)


def tensor() -> Table:
    """Return the instructions of the main loops of rung 6."""
    rows = []
    architectures = [card.architecture for card in CARDS]
    for name, (defines, _) in tqdm(TENSOR.items(), unit="format"):
        for columns, (macros, _) in TENSOR_COLUMNS.items():
            for kernel in CONVOLUTION:
                loops = {
                    a: slowest_loop("conv6_tensor.cu", kernel, a, (*defines, *macros))
                    for a in architectures
                    if a >= 80 or "TF32" not in defines
                }
                counts = (
                    f"{TENSOR_PRODUCTS * loops[a].instructions / loops[a].products:.0f}"
                    if a in loops else "-" for a in architectures
                )  # fmt: skip
                limits = dict.fromkeys(loop.limit for loop in loops.values())
                divisions = max(loop.divisions for loop in loops.values())
                cells = "/".join(counts), "/".join(limits), str(divisions)
                rows.append([f"{name}, {columns} columns: {kernel}", *cells])
    return ["main loop", "instructions for 32 x 32 x 16 products", "set by", "divisions"], rows


def tensor_floors() -> Table:
    """Return the least time of rung 6's main loop beside the floor, for the layers of 28 x 28."""
    rows = []
    for card in CARDS:
        for name, shape in CONVOLUTIONS.items():
            layer = Layer(TABLE_BATCH, *shape)
            if name.startswith("conv 28x28"):
                cells = (tensor_times(card, layer, kind) for kind in TENSOR)
                rows.append(
                    [f"{card.name}: {name}"]
                    + ["/".join(map(_microseconds, times)) if times else "-" for times in cells]
                )
    return ["main loop/floor, microseconds", *TENSOR], rows


def tensor_times(card: Card, layer: Layer, kind: str) -> tuple[float, float] | None:
    """Return the least time of rung 6's main loop, forward, and the layer's floor, in seconds.

    kind: one of TENSOR; None if the card does not have it.
    """
    defines, stored = TENSOR[kind]
    peak = card.tf32 if kind == "TF32" else card.fp16
    if not peak:
        return None
    columns = min(64, max(32, layer.K))
    macros, rows = TENSOR_COLUMNS[columns]
    kernel = cuda.FOLDER / "conv6_tensor.cu", card.architecture, (*defines, *macros)
    loop = slowest_loop(kernel[0].name, "conv2d", *kernel[1:])
    warps = compile(*kernel).kernels["conv2d"].threads // WARP
    return (
        tensor_cores(card, layer, loop, peak, rows, columns, warps),
        direct(card, layer, peak, stored).seconds,
    )


def slowest_loop(file: str, kernel: str, architecture: int, defines: tuple[str, ...]) -> Loop:
    """Return a kernel's main loop with the least share of arithmetic; file: a rung's forward."""
    program = compile(cuda.FOLDER / ladder.file_of(file, kernel), architecture, defines)
    loops = main_loops(disassemble(program.cubin)[kernel], architecture)
    return max(loops, key=lambda loop: loop.instructions / loop.products)


def cards() -> Table:
    """Return the numbers of the data sheets."""
    head = ["card", "SMs", "FP32, TFLOP/s", "TF32", "FP16", "memory, GB/s", "L2, MB", "source"]
    return head, [
        [
            f"{card.name} (sm_{card.architecture})",
            str(card.multiprocessors),
            *(f"{peak:g}" if peak else "-" for peak in (card.fp32, card.tf32, card.fp16)),
            f"{card.bandwidth}",
            f"{card.cache}",
            card.source,
        ]
        for card in CARDS
    ]


def floors() -> Table:
    """Return lower bounds on the time of the small UNet's convolutions."""
    rows = []
    for card in CARDS:
        for name, shape in CONVOLUTIONS.items():
            layer = Layer(TABLE_BATCH, *shape)
            plain = direct(card, layer, card.fp32)
            rows.append(
                [
                    f"{card.name}: {name}",
                    _microseconds(plain.seconds),
                    "memory" if plain.memory > plain.arithmetic else "arithmetic",
                    _microseconds(winograd_seconds(card, layer)),
                    *(
                        _microseconds(direct(card, layer, peak, stored).seconds) if peak else "-"
                        for peak, stored in ((card.tf32, 4), (card.fp16, 4), (card.fp16, 2))
                    ),
                ]
            )
    head = ["floor, microseconds", "definition, FP32", "set by", "F(4x4), FP32"]
    return [*head, "definition, TF32", "definition, FP16", "x stored in FP16"], rows


def _microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:.3g}"


def crossings() -> Table:
    """Return the smallest number of channels for which F(4x4) has the lower floor."""
    rows = []
    for card in CARDS:
        channels = [crossing(card, TABLE_BATCH, H, MAX_CHANNELS) for H in SIZES]
        cells = (str(C) if C else f"over {MAX_CHANNELS}" for C in channels)
        rows.append([card.name, f"{card.balance:.0f}", *cells])
    head = ["F(4x4) below the definition from C = K on", "FP32 FLOP per byte of memory"]
    return head + [f"{H}x{H}" for H in SIZES], rows


ALL = (
    compiled, ceilings, cycles, sectors, tensor, tensor_floors, cards, floors, crossings, schedules,
)  # fmt: skip
TABLES = {f.__name__: f for f in ALL}


def draw_roofline(path: Path) -> None:
    """Draw each card's roof, and two kernels' operations per byte, for a layer of 64 channels."""
    low, high, bottom = 1.0, 1000.0, 0.3
    series = {}
    for card in CARDS:
        xs = [low, card.balance, high]
        series[card.name] = (xs, [card.fp32 * min(1, x / card.balance) for x in xs])
    layer, top = Layer(TABLE_BATCH, 28, 64, 64), max(card.fp32 for card in CARDS)
    card = CARDS[0]  # a kernel has the same operations per byte on every card
    kernels = {
        "F(4x4)'s product": winograd(card, layer)[2],
        "definition": direct(card, layer, card.fp32),
    }
    for name, floor in kernels.items():
        x = floor.arithmetic / floor.memory * card.balance
        series[name] = ([x, x], [bottom, top])
    title = "Data-sheet roofs in FP32, and two kernels for 28x28 64->64"
    xlabel = "operations per byte of memory (of a kernel: upright lines)"
    drawing.curve(series, path, title, xlabel, "TFLOP/s at most", log_y=True, log_x=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="tables, separated by commas: " + ", ".join(TABLES))
    parser.add_argument("--write", action="store_true", help=f"write {FILE.relative_to(ROOT)}")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(TABLES)
    if unknown := [name for name in names if name not in TABLES]:
        raise InputError(f"there is no table {unknown[0]!r}: choose from {', '.join(TABLES)}.")
    done = {name: markdown(*TABLES[name]()) for name in names}
    print(*done.values(), sep="\n\n")
    if args.write:
        write(FILE, done)
        draw_roofline(ROOFLINE)
        print(f"wrote {FILE.relative_to(ROOT)} and {ROOFLINE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))

"""What can be said of the CUDA kernels without a GPU: the tables and the picture of it.

    python benchmarks/cuda_tables.py                  # print all tables, half a minute
    python benchmarks/cuda_tables.py --only crossings # some of them
    python benchmarks/cuda_tables.py --write          # and put them into kernels/README.md

What the compiler made needs its wheels, pip install -e ".[nvrtc]", but no GPU. The rest is
arithmetic on data-sheet numbers. Nothing here was measured on a card.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from cases import CONVOLUTIONS
from minddpm import drawing as viz
from minddpm.commands import cli
from minddpm.errors import InputError
from minddpm.kernels import cuda
from minddpm.kernels.cuda.analysis.compile import ARCHITECTURES, Program, compile
from minddpm.kernels.cuda.analysis.disassembly import Instructions, disassemble
from minddpm.kernels.cuda.analysis.occupancy import occupancy
from minddpm.kernels.cuda.analysis.roofline import (
    CARDS,
    Layer,
    crossing,
    direct,
    winograd,
    winograd_seconds,
)
from readme_tables import CONV_BATCH, ROOT
from tables import markdown, write

FILE = ROOT / "kernels" / "README.md"
PICTURE = ROOT / "docs" / "roofline.png"
COUNTED = 80  # instructions hardly differ between architectures: those of the A100
ANY_BLOCK = 256  # of a kernel without __launch_bounds__, which takes any
SIZES = (28, 14, 7)
MOST = 4096  # channels up to which crossings() looks
Table = tuple[list[str], list[list[str]]]


def compiled() -> Table:
    """Every kernel: what it needs on each card, and the instructions that it became."""
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
        need = needs.get(a)  # none where an architecture has no such kernel
        part = occupancy(a, block, need.registers, need.shared) if need else 0.0
        registers.append(f"{need.registers}" if need else "-")
        percent.append(f"{100 * part:.0f}" if need else "-")
    return [
        f"{first.threads or 'any'}",
        "/".join(registers),
        f"{shared}{' + dynamic' * first.dynamic}",
        "/".join(percent),
        f"{max(need.stack for need in needs.values())}",
        f"{max(need.spills for need in needs.values())}",
    ]


def _counts(instructions: Instructions | None) -> list[str]:
    return [f"{n}" for n in instructions] if instructions else ["-"] * len(Instructions._fields)


def cards() -> Table:
    """The data sheets."""
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
    """The least times of the small UNet's convolutions."""
    rows = []
    for card in CARDS:
        for name, shape in CONVOLUTIONS.items():
            layer = Layer(CONV_BATCH, *shape)
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
    """From how many channels on F(4x4) has the lower floor."""
    rows = []
    for card in CARDS:
        found = [crossing(card, CONV_BATCH, H, MOST) for H in SIZES]
        rows.append(
            [card.name, f"{card.balance:.0f}", *(str(C) if C else f"over {MOST}" for C in found)]
        )
    head = ["F(4x4) below the definition from C = K on", "FP32 FLOP per byte of memory"]
    return head + [f"{H}x{H}" for H in SIZES], rows


TABLES = {f.__name__: f for f in (compiled, cards, floors, crossings)}


def picture(path: Path) -> None:
    """The roof of each card, and where two kernels of a layer with 64 channels stand below it."""
    low, high, bottom = 1.0, 1000.0, 0.3
    series = {}
    for card in CARDS:
        xs = [low, card.balance, high]
        series[card.name] = (xs, [card.fp32 * min(1, x / card.balance) for x in xs])
    layer, top = Layer(CONV_BATCH, 28, 64, 64), max(card.fp32 for card in CARDS)
    card = CARDS[0]  # a kernel has its operations per byte on whatever card
    kernels = {
        "F(4x4)'s product": winograd(card, layer)[2],
        "definition": direct(card, layer, card.fp32),
    }
    for name, floor in kernels.items():
        x = floor.arithmetic / floor.memory * card.balance
        series[name] = ([x, x], [bottom, top])
    title = "Data-sheet roofs in FP32, and two kernels for 28x28 64->64"
    xlabel = "operations per byte of memory (of a kernel: upright lines)"
    viz.curve(series, path, title, xlabel, "TFLOP/s at most", log_y=True, log_x=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="tables, with commas: " + ", ".join(TABLES))
    parser.add_argument("--write", action="store_true", help="write kernels/README.md and docs/")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(TABLES)
    if unknown := [name for name in names if name not in TABLES]:
        raise InputError(f"there is no table {unknown[0]!r}: choose from {', '.join(TABLES)}.")
    done = {name: markdown(*TABLES[name]()) for name in names}
    print(*done.values(), sep="\n\n")
    if args.write:
        write(FILE, done)
        picture(PICTURE)
        print(f"written: {FILE.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))

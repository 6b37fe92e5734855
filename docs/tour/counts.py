"""Keep what chapters 7 and 8 quote from the emulator current: counts, results and messages.

    python docs/tour/counts.py            lists what is stale; exits 1 if anything is
    python docs/tour/counts.py --write    refreshes it

It needs g++. Markers name a key of COUNTED:

    <!-- counted: coalesced -->
    (written by this script)
    <!-- /counted -->

The small kernels are code blocks of the chapters, found by their first line, "// FILE.cu: ...".
"""

import argparse
import re
import sys
import unittest.mock as mock
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill

import numpy as np

import minddpm
from minddpm.commands.cli import markdown
from minddpm.kernels.cuda import fused, ladder, winograd
from minddpm.kernels.emulator import (
    EmulatorError,
    Library,
    cupy_on_cpu,
    device_array,
    device_empty,
)
from minddpm.kernels.emulator.cupy_on_cpu.cuda import profiling
from minddpm.kernels.emulator.profile import Line, global_bytes, totals

FOLDER = Path(__file__).parent
CUDA = FOLDER.parents[1] / "kernels" / "cuda"
MARKER = re.compile(r"<!-- counted: ([^\n]+?) -->\n(.*?)<!-- /counted -->", re.S)

# The convolution of chapter 7: 3 x 3 without padding, so that all lanes do the same.
X, W, Y = (2, 10, 10, 16), (3, 3, 16, 64), (2, 8, 8, 64)
NO_PADDING = (0, 0), (0, 0)
RUNGS = {
    "1 naive": ("1 naive", "float32"),
    "2 coalesced": ("2 coalesced", "float32"),
    "3 shared tile": ("3 shared tile", "float32"),
    "4 register tile": ("4 register tile", "float32"),
    "6 tensor cores": ("6 tensor cores, half", "float32"),
    "6 tensor cores, x in half": ("6 tensor cores, half", "float16"),
}


def profiled(
    forward: Callable[..., None], size: int, stored: str = "float32", **options
) -> tuple[list[Line], Counter]:
    """Profile a rung's forward for two results of size x size; stored: the type of x.

    Without slices: they fill a whole GPU, for which this is too small.
    """
    shapes = (2, size + 2, size + 2, X[3]), W, Y[3]
    x, w, b = (cupy_on_cpu.zeros(shape, "float32") for shape in shapes)
    y = cupy_on_cpu.empty((2, size, size, Y[3]), "float32")
    sizes = ladder.Sizes.of((x,), W, 1, NO_PADDING)
    with mock.patch.object(ladder, "depth_slices", return_value=1), profiling() as costs:
        forward(sizes, (x.astype(stored),), w, b, y, **options)
    return costs


def profiled_rung(rung: str) -> tuple[list[Line], int]:
    """Return the profile and the floating-point operations of a rung of the ladder."""
    name, stored = RUNGS[rung]
    lines, operations = profiled(ladder.forward, Y[1], stored, rung=ladder.RUNGS[name])
    return lines, sum(operations.values())


def line_table(rung: str, document: str) -> str:
    """Return the accesses of each line of a rung."""
    rows = []
    for line in profiled_rung(rung)[0]:
        file, _, number = line.place.partition(":")
        source = (CUDA / file).read_text().split("\n")[int(number) - 1].strip()
        source = source.partition("  //")[0].replace("|", "\\|")
        rows.append((f"`{source}`", *cells(line)))
    return markdown(("line", *HEAD), rows)


HEAD = ("memory", "access", "requests", "per request", "ideal", "worst")


def cells(line: Line) -> tuple[str, ...]:
    per_request, ideal = (f"{n / line.requests:.2f}" for n in (line.transactions, line.ideal))
    return line.space, line.kind, str(line.requests), per_request, ideal, str(line.worst)


def ladder_table(document: str) -> str:
    """Return a row for each rung; a multiply-add is two operations."""
    rows = []
    for rung in RUNGS:
        lines, flops = profiled_rung(rung)
        read, written = (sum(n) for n in zip(*global_bytes(lines).values(), strict=True))
        shared = sum(line.requests for line in lines if line.space == "shared")
        rows.append((rung, f"{flops:,}", f"{read:,}", f"{written:,}", f"{shared:,}"))
    head = "rung", "operations", "bytes read", "bytes written", "requests to shared memory"
    return markdown(head, rows)


def winograd_table(document: str) -> str:
    """Return what the kernels of rung 5 do for images that fill its tiles, beside rung 4."""
    rows = []
    for rung, forward, options in (
        ("4 register tile", ladder.forward, {"rung": ladder.RUNGS["4 register tile"]}),
        ("5 Winograd F(4x4)", winograd.forward, {}),
        ("5 fused F(2x2)", fused.forward, {}),
    ):
        lines, operations = profiled(forward, 32, **options)
        moved, flops = global_bytes(lines), totals(operations)
        counts = [(f"`{kernel}`", flops[kernel], *moved[kernel]) for kernel in moved]
        if len(counts) > 1:
            counts.append(("together", *(sum(n) for n in list(zip(*counts, strict=True))[1:])))
        rows += [(rung, name, *(f"{n:,}" for n in numbers)) for name, *numbers in counts]
    head = "rung", "kernel", "operations", "bytes read", "bytes written"
    return markdown(head, rows)


def stride_table(document: str) -> str:
    """Return what a warp's read costs in global and in shared memory, for several strides."""
    library = Library(code(document, "strides.cu"), "strides.cu", "profile")
    rows = []
    for stride in (0, 1, 2, 4, 8, 16, 32, 33):
        counts = []
        for name in ("global_read", "shared_read"):
            x, y = device_array(np.zeros(33 * 32, "f")), device_empty(32)
            library.launch(name, (1,), (32,), (x, y, np.int32(stride)))
            (line,) = [
                line for line in library.profile()
                if line.kind == "load" and line.space == name.partition("_")[0]
            ]  # fmt: skip
            counts.append(str(line.transactions))
        rows.append((str(stride), *counts))
    return markdown(("stride, numbers", "sectors", "passes over the banks"), rows)


def padding_table(document: str) -> str:
    """Return the passes over the banks for rung 3's tile of a, with lines of 17 and 16 numbers."""
    source, rows = (CUDA / "conv3_shared.cu").read_text(), []
    assert "TILE + 1" in source, "the kernel has changed"
    s = ladder.Sizes(*X, *Y[1:], *W[:2], 1, 0, 0)
    none = np.uint64(0)
    for length, text in (("17", "TILE + 1"), ("16", "TILE")):
        library = Library(source.replace("TILE + 1", text), CUDA / "conv3_shared.cu", "profile")
        x, w, y = device_array(np.zeros(X, "f")), device_array(np.zeros(W, "f")), device_empty(Y)
        library.launch(
            "conv2d", (8, 4), (16, 16),
            (x, none, np.int32(X[3]), w, none, none, none, y, *map(np.int32, (*s, 1))),
        )  # fmt: skip
        counts = {}
        for line in library.profile():
            if line.space == "shared":
                counts.setdefault(line.kind, f"{line.transactions / line.requests:.2f}")
        rows.append((length, counts["store"], counts["load"]))
    return markdown(("numbers in a line", "passes of a store", "passes of a load"), rows)


def launch_table(document: str) -> str:
    """Return what a call of a small UNet launches, eager and replayed."""
    shape = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1, "norm_num_groups": 4,
    }  # fmt: skip
    xp = minddpm.set_backend("cupy").xp
    unet = minddpm.UNet2D(**shape)
    unet.eval()
    x, t = xp.zeros((1, 8, 8, 1), "float32"), xp.zeros(1, "int64")
    model, rows = minddpm.replayed(unet), []
    for call in ("first: eager", "second: recorded, then launched", "third: launched"):
        xp.stats.reset()
        with minddpm.backend.kernels.constant_weights():
            model(x, t)
        stats = xp.stats
        rows.append((call, str(stats.launches - stats.graph_launches), str(stats.graph_launches)))
    return markdown(("call", "single launches", "launches of a graph"), rows)


# --- chapter 8: planted bugs ---------------------------------------------------------------------

# What is replaced in sums.cu by what.
BUGS = {
    "missing barrier": ("        __syncthreads();  // all sums of this round\n", ""),
    "out of bounds": ("i < n ? x[i] : 0.0f", "x[i]"),
    "uninitialised": (
        "    part[threadIdx.x] = i < n ? x[i] : 0.0f;",
        "    if (i < n) part[threadIdx.x] = x[i];",
    ),
    "divergent barrier": (
        "        __syncthreads();  // all sums of this round",
        "        if (threadIdx.x < half) __syncthreads();",
    ),
    "one place for all blocks": ("y[blockIdx.x]", "y[0]"),
}
NUMBERS = 100  # of x, for two blocks of 64 threads


def change(bug: str, document: str) -> tuple[str, str]:
    """Return sums.cu with a bug, and the changed lines as a diff."""
    right, wrong = BUGS[bug]
    source = code(document, "sums.cu")
    assert source.count(right) == 1, f"{bug}: plant it elsewhere"
    old, new = (s.split("\n") for s in (source, source.replace(right, wrong)))
    before = next(i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1])
    lines = [f"-{old[before]}"]
    if len(old) == len(new):
        lines.append(f"+{new[before]}")
    return "\n".join(new), "```diff\n" + "\n".join(lines) + "\n```"


def sums(source: str, mode: str, order: int = 0, n: object = None) -> np.ndarray:
    """Return y of sums.cu for x = 1, 2, ... 100."""
    x, y = device_array(np.arange(1, NUMBERS + 1, dtype=np.float32)), device_empty(2)
    library = Library(source, "sums.cu", mode)
    library.launch("sums", (2,), (64,), (x, y, np.int32(NUMBERS) if n is None else n), order=order)
    return y.copy()


def order_table(document: str) -> str:
    """Return the results in three orders, without and with the missing barrier."""
    wrong, diff = change("missing barrier", document)
    rows = []
    for name, source in (("as it is", code(document, "sums.cu")), ("without the barrier", wrong)):
        results = [sums(source, "plain", order) for order in (0, 1, 2)]
        rows.append((name, *(" and ".join(f"{v:.0f}" for v in result) for result in results)))
    head = "sums.cu", "order 0, as numbered", "order 1, reversed", "order 2, random"
    return f"{diff}\n\n{markdown(head, rows)}"


def message(run: Callable[[], object]) -> str:
    try:
        run()
    except EmulatorError as error:
        return f"```text\n{fill(str(error), 84, subsequent_indent='    ')}\n```"
    raise AssertionError("the emulator reported nothing")


def bug_message(bug: str, document: str, mode: str = "race") -> str:
    """Return the change and the message."""
    source, diff = change(bug, document)
    return f"{diff}\n\n{message(lambda: sums(source, mode))}"


def argument_message(document: str) -> str:
    source = code(document, "sums.cu")
    return message(lambda: sums(source, "plain", n=np.int64(NUMBERS)))


def copy_message(document: str) -> str:
    source = code(document, "copied.cu")
    right = "    cp_async_wait<0>();\n"
    assert source.count(right) == 1
    x, y = device_array(np.zeros(128, "f")), device_empty(128)

    def run() -> None:
        library = Library(source.replace(right, ""), CUDA / "copied.cu", "race")
        library.launch("copied", (1,), (32,), (x, y))

    return f"```diff\n-{right.rstrip()}\n```\n\n{message(run)}"


def session(document: str) -> str:
    """Return the gdb session of docs/debugging.md from its first breakpoint to the second."""
    text = (FOLDER.parent / "debugging.md").read_text()
    _, first, *_ = text.split("(gdb) break ")
    return f"```text\n(gdb) break {first.rstrip()}\n```"


COUNTED: dict[str, Callable[[str], str]] = {
    **{rung: partial(line_table, rung) for rung in RUNGS},
    "ladder": ladder_table,
    "winograd": winograd_table,
    "strides": stride_table,
    "padding": padding_table,
    "launches": launch_table,
    "order": order_table,
    **{bug: partial(bug_message, bug) for bug in BUGS},
    "wrong argument": argument_message,
    "unfinished copy": copy_message,
    "session": session,
}


def code(document: str, file: str) -> str:
    """Return the code block of a document whose first line is a comment with this file's name."""
    (found,) = re.findall(rf"^```cuda\n(// {re.escape(file)}:.*?)^```$", document, re.S | re.M)
    return found


def refreshed(document: str) -> tuple[str, list[str]]:
    """Return a document with everything counted anew, and the names of what was stale."""
    stale = []

    def one(found: re.Match[str]) -> str:
        content = f"{COUNTED[found[1]](document)}\n"
        if content != found[2]:
            stale.append(found[1])
        return f"<!-- counted: {found[1]} -->\n{content}<!-- /counted -->"

    return MARKER.sub(one, document), stale


def documents() -> Sequence[Path]:
    return [path for path in sorted(FOLDER.glob("*.md")) if MARKER.search(path.read_text())]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="refresh what is stale")
    args = parser.parse_args()
    cupy_on_cpu.install()
    any_stale = False
    for path in documents():
        text = path.read_text()
        new, stale = refreshed(text)
        for name in stale:
            print(f"{path.name}: {name}" + (" (refreshed)" if args.write else ""))
        any_stale |= bool(stale)
        if args.write and stale:
            path.write_text(new)
    return int(any_stale and not args.write)


if __name__ == "__main__":
    sys.exit(main())

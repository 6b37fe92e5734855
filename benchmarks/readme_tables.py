"""Measure everything side by side in one process, and write the tables of the READMEs.

    python benchmarks/report.py                        # print all tables, about 25 minutes
    python benchmarks/report.py --only conv,operations # some of them
    python benchmarks/report.py --write                # and put them into the two READMEs

Everybody has the same number of threads, and glibc's allocator is told to keep freed memory, which
makes PyTorch about a tenth faster. --quick leaves out what has to be compiled for minutes.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

TUNABLES = "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=17179869184"

ROOT = Path(__file__).parent.parent
FILES = {
    "README.md": ("machine", "unet", "avx2", "start", "floor"),
    "kernels/README.md": ("peak", "conv", "operations"),
}
Table = Generator[None, None, tuple[list[str], list[list[str]]]]
COMPILED = ("torch.compile", "JAX", "OpenVINO", "ONNX Runtime")
AVX2 = {  # of minddpm, PyTorch, oneDNN and MKL
    "MINDDPM_VECTOR_BITS": "256", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}  # fmt: skip
Line = tuple[str, str, dict[str, Any], int, int | None]  # title, task, configuration, batch, size
CONV_BATCH = OPERATION_BATCH = 128


def parse() -> argparse.Namespace:
    from minddpm.commands import cli

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="tables, with commas: " + ", ".join(TABLES))
    parser.add_argument("--quick", action="store_true", help="leave out compilers and exporters")
    parser.add_argument("--write", action="store_true", help="write the tables into the READMEs")
    parser.add_argument("--threads", type=cli.positive, help="of everybody (default: all cores)")
    return parser.parse_args()


# --- tables: each yields for the progress bar, and returns (head, rows) ---------------------------


def machine(args: argparse.Namespace) -> Table:
    from importlib.metadata import PackageNotFoundError, version

    import contestants
    from minddpm.kernels.cpu.vector.instructions import W

    yield
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    versions = [f"Python {platform.python_version()}"]
    for package in ("numpy", "numba", "torch", "jax", "openvino", "onnxruntime"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    threads = contestants.share_threads(args.threads)
    return ["machine", ""], [
        ["CPU", f"{model}, {threads} threads, vectors of {32 * W} bits"],
        ["versions", ", ".join(versions)],
    ]


def peak(args: argparse.Namespace) -> Table:
    import peak as machine_peak
    from contestants import share_threads

    rows = []
    threads = share_threads(args.threads)
    for n in sorted({1, threads}):
        most, tile = machine_peak.fma_peak(n), machine_peak.micro_kernel(n)
        yield
        rows.append(
            [
                str(n),
                f"{most:.0f}",
                f"{tile:.0f}",
                f"{tile / most:.0%}",
                f"{machine_peak.bandwidth(n):.0f}",
            ]
        )
        yield
    head = ["threads", "FMA peak, GFLOP/s", "register tile", "of the peak", "memory, GB/s"]
    return head, rows


def conv(args: argparse.Namespace) -> Table:
    """Effective GFLOP/s: those of the definition, whatever a rung really computes."""
    import peak as machine_peak
    from cases import convolutions
    from contestants import expected, fits, layouts, rung, share_threads, theirs
    from measure import best, interleave, median, ratio
    from minddpm.kernels.cpu.ladder.choose import LADDER

    most = machine_peak.fma_peak(share_threads(args.threads))
    rows = []
    for name, make in convolutions(CONV_BATCH).items():
        for backward in (False, True):
            case = make()
            wanted = expected(case, backward)
            run = {r: rung(case, backward, r, wanted) for r in LADDER if fits(r, case)}
            run |= {mode: theirs(case, backward, mode, wanted) for mode in layouts(name)}
            seconds = interleave(run, rounds=3)
            yield
            rival = best(seconds, layouts(name))
            for contestant in run:
                ms = median(seconds[contestant]) * 1e3
                speed = case.flops * (1 + backward) / ms / 1e6
                faster = f"{ratio(seconds, rival, contestant):.2f}" if rival else "-"
                rows.append(
                    [
                        f"{name}{' backward' * backward}",
                        contestant,
                        f"{ms:.2f}",
                        f"{speed:.0f}",
                        f"{speed / most:.0%}",
                        faster,
                    ]
                )
    head = ["layer", "rung", "ms", "GFLOP/s", "of FMA peak", "times PyTorch's best"]
    return head, rows


def operations(args: argparse.Namespace) -> Table:
    from cases import directions, other_operations
    from contestants import expected, layouts, ours, share_threads, theirs
    from measure import best, interleave, median, ratio

    share_threads(args.threads)
    rows = []
    cases = other_operations(OPERATION_BATCH)
    for name, backward in directions(cases):
        case = cases[name]()
        wanted = expected(case, backward)
        run = {mode: theirs(case, backward, mode, wanted) for mode in layouts(name)}
        run["minddpm"] = ours(case, backward, "numba", wanted)
        seconds = interleave(run, rounds=5)
        yield
        rival = best(seconds, layouts(name))
        rows.append(
            [f"{name}{' backward' * backward}", f"{median(seconds['minddpm']) * 1e3:.2f}"]
            + ([f"{median(seconds[rival]) * 1e3:.2f}"] if rival else ["-"])
            + ([f"{ratio(seconds, rival, 'minddpm'):.2f}"] if rival else ["-"])
        )
    return ["operation", "minddpm, ms", "PyTorch's best layout, ms", "ratio"], rows


def small_lines() -> list[Line]:
    from minddpm import SMALL

    return [
        ("training step, batch 128", "train", SMALL, 128, None),
        ("forward, batch 128", "forward", SMALL, 128, None),
        *((f"sampling step, batch {n}", "sample", SMALL, n, None) for n in (1, 16, 64)),
    ]


def unet(args: argparse.Namespace) -> Table:
    import minddpm
    from unets import missing, modes

    if absent := missing():
        print(f'not compared: {", ".join(absent)}; pip install -e ".[benchmark]"', file=sys.stderr)
    small, paper = minddpm.SMALL, minddpm.PAPER
    lines: list[Line] = [
        *small_lines(),
        ("sampling step, batch 128", "sample", small, 128, None),
        ("training step, 32x32, batch 32 (eager)", "train", small, 32, 32),
        ("training step, 64x64, batch 8 (eager)", "train", small, 8, 64),
        ("training step, 35.7M-parameter CIFAR-10 model, batch 8 (eager)", "train", paper, 8, None),
    ]
    everyone = [m for m in modes("forward") if not (args.quick and m in COMPILED)]
    return (yield from side_by_side(lines, everyone, args))


def avx2(args: argparse.Namespace) -> Table:
    """The same in a process whose libraries all believe that the processor has no AVX-512."""
    from tables import cells
    from unets import modes

    if AVX2.items() <= os.environ.items():
        everyone = [m for m in modes("forward") if m not in COMPILED]
        return (yield from side_by_side(small_lines(), everyone, args))
    threads = ["--threads", str(args.threads)] if args.threads else []
    command = [sys.executable, __file__, "--only", "avx2", *threads]
    yield
    done = subprocess.run(command, env={**os.environ, **AVX2}, stdout=subprocess.PIPE, check=True)
    head, _, *rows = map(cells, done.stdout.decode().strip().splitlines())
    return head, rows


def side_by_side(lines: Sequence[Line], everyone: list[str], args: argparse.Namespace) -> Table:
    """Tasks of whole UNets, each by minddpm and by `everyone`."""
    from contestants import share_threads
    from measure import WrongResultError, best, interleave, median, ratio
    from unets import build, expected, modes, problem

    share_threads(args.threads)
    rows = []
    for title, task, config, batch, size in lines:
        p = problem(config, batch, size)
        wanted = expected(task, p)
        run: dict[str, Callable[[], Any]] = {"minddpm": build("numba", task, p, wanted)}
        for mode in everyone:
            # Six more compilations, of minutes each: these rows are against the eager modes.
            if mode in modes(task) and not (mode in COMPILED and "eager" in title):
                try:
                    run[mode] = build(mode, task, p, wanted)
                except WrongResultError as error:
                    print(f"not timed: {mode}, {title}: {error}", file=sys.stderr)
                yield
        seconds = interleave(run, rounds=7 if batch > 16 else 15)
        rival = best(seconds, [m for m in run if "orch" in m])
        rows.append(
            [title, *(f"{median(seconds[m]) * 1e3:.1f}" if m in run else "-" for m in run_names())]
            + ([f"{ratio(seconds, rival, 'minddpm'):.2f}"] if rival else ["-"])
        )
        yield
    keep = [i for i in range(len(rows[0])) if i == 0 or any(row[i] != "-" for row in rows)]
    head = ["ms", *run_names(), "times PyTorch's best"]
    return [head[i] for i in keep], [[row[i] for i in keep] for row in rows]


def floor(args: argparse.Namespace) -> Table:
    """How far a training step is from the least time that it could take."""
    import minddpm
    import peak as machine_peak
    from contestants import share_threads
    from floor import counting
    from measure import interleave, median
    from unets import build, expected, problem

    threads = share_threads(args.threads)
    flops, memory = machine_peak.fma_peak(threads), machine_peak.bandwidth(threads)
    p = problem(minddpm.SMALL, 128)
    train = build("numba", "train", p, expected("train", p))
    yield
    with counting() as total:
        train()
    ms = median(interleave({"train": train}, rounds=5)["train"]) * 1e3
    products, traffic = total["flops"] / flops / 1e6, total["bytes"] / memory / 1e6
    yield
    return ["training step, batch 128", ""], [
        ["products after Winograd", f"{total['flops'] / 1e9:.0f} GFLOP, {products:.0f} ms at peak"],
        ["arrays in and out", f"{total['bytes'] / 1e9:.1f} GB, {traffic:.0f} ms at bandwidth"],
        ["measured", f"{ms:.0f} ms"],
        ["of the larger floor", f"{max(products, traffic) / ms:.0%}"],
    ]


def run_names() -> list[str]:
    from unets import INFERENCE, PYTORCH, XLA

    return ["minddpm", *PYTORCH, *XLA, *INFERENCE]


def start(args: argparse.Namespace) -> Table:
    import startup
    from unets import modes

    rows = []
    for name, seconds in startup.start_up().items():
        rows.append([name, f"{seconds:.1f} s"])
        yield
    for mode in ("minddpm", *(m for m in modes("train") if m not in COMPILED)):
        whole, added = startup.training_memory(mode)
        rows.append(
            [
                f"peak memory, training with batch 128: {mode}",
                f"{whole:.2f} GB",
                f"{added:.2f} GB in the steps",
            ]
        )
        yield
    width = max(map(len, rows))
    return ["start and memory", "", ""][:width], [row + [""] * (width - len(row)) for row in rows]


TABLES = {f.__name__: f for f in (machine, peak, conv, operations, start, unet, avx2, floor)}


# --- the command ---------------------------------------------------------------------------------


def measured(name: str, args: argparse.Namespace, bar: Any) -> str:
    """The table of this name, as Markdown."""
    from tables import markdown

    steps = TABLES[name](args)
    bar.set_description(name)
    while True:
        try:
            next(steps)
            bar.update()
        except StopIteration as end:
            return markdown(*end.value)


def main() -> int:
    from tqdm import tqdm

    import contestants  # noqa: F401  PyTorch has to come before Numba: see there
    import minddpm
    from minddpm.errors import InputError
    from tables import write

    args = parse()
    names = args.only.split(",") if args.only else list(TABLES)
    if unknown := [name for name in names if name not in TABLES]:
        raise InputError(f"there is no table {unknown[0]!r}: choose from {', '.join(TABLES)}.")
    minddpm.set_backend("numba")
    minddpm.backend.set_threads(args.threads)
    done = {}
    with tqdm(unit="step") as bar:
        for name in names:
            done[name] = measured(name, args, bar)
            bar.write(f"\n{done[name]}")
    if args.write:
        for file, there in FILES.items():
            if chosen := {name: done[name] for name in there if name in done}:
                write(ROOT / file, chosen)
                print(f"written: {file}: {', '.join(chosen)}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    if "GLIBC_TUNABLES" not in os.environ and sys.platform == "linux":
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.argv])
    from minddpm.commands import cli

    sys.exit(cli.run(main))

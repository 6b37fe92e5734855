"""Start-up times and peak memory: each figure from a process of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

SETUP = """
import time; start = time.perf_counter()
import resource, sys
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
"""
IMPORT = SETUP + "import minddpm\nprint(time.perf_counter() - start)"
FIRST_STEP = (
    SETUP
    + """
sys.path.insert(0, "benchmarks")
import minddpm
from unets import our_train, problem
minddpm.set_backend("numba")
train = our_train(problem(minddpm.SMALL, 32))
train()
print(time.perf_counter() - start)
"""
)
MEMORY = (
    SETUP
    + """
sys.path.insert(0, "benchmarks")
import minddpm
from unets import our_train, problem
minddpm.set_backend("numba")
p = problem(minddpm.SMALL, 128)
if sys.argv[1] == "minddpm":
    train = our_train(p)
else:
    from torch_unets import build_theirs
    train = build_theirs(sys.argv[1], "train", p)
before = peak()
for _ in range(3): train()
print(peak(), peak() - before)
"""
)


def _run(code: str, *arguments: str, **variables: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **variables}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [float(x) for x in done.stdout.split()]


@contextmanager
def _empty_cache() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        yield directory


def start_up() -> dict[str, float]:
    """Seconds until minddpm is imported, and until a first training step is done."""
    with _empty_cache() as cache:
        cold = _run(FIRST_STEP, XDG_CACHE_HOME=cache)[0]
        warm = min(_run(FIRST_STEP, XDG_CACHE_HOME=cache)[0] for _ in range(3))
    return {
        "`import minddpm`": min(_run(IMPORT)[0] for _ in range(3)),
        "first training step, kernels compiled on the way (once)": cold,
        "first training step of every later start": warm,
    }


def training_memory(mode: str) -> tuple[float, float]:
    """Peak resident GB of a process that trains with batch 128, and what its steps added to it."""
    return tuple(_run(MEMORY, mode))

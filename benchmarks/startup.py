"""Measure start-up times and peak memory, each in a process of its own."""

import os
import subprocess
import sys
import tempfile

SETUP = """
import time; start = time.perf_counter()
from pathlib import Path
import sys
def peak():  # GB; ru_maxrss would include the memory of the parent process
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(s.split()[1]) for s in lines if s.startswith("VmHWM")) * 1024 / 1e9
"""
IMPORT = SETUP + "import minddpm\nprint(time.perf_counter() - start)"
# Does not use unets.py, which imports PyTorch and would add PyTorch's time and memory to ours.
OURS = """
import numpy as np, minddpm
from minddpm import nn, random
from minddpm.replay import ReplayedStep
minddpm.set_backend("numba"); minddpm.manual_seed(0)
unet = minddpm.UNet2D(**minddpm.SMALL).train()
diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(1000))
optimizer = nn.Adam(unet.parameters())
ema = nn.EMA(optimizer.flat)
def compute(step, x0, t, *numbers):
    minddpm.manual_seed(0, step)
    losses = diffusion.training_losses(unet, x0, t, x0)
    losses.mean().backward()
    squared = optimizer.update(*numbers, 1.0, ema)
    optimizer.zero_grad()
    return losses.data, squared
step = ReplayedStep(unet, optimizer.arrays(ema))
def train(N):
    x0 = random.normal((N, 28, 28, 1), 0, random.CHECK)
    step(compute, 0, x0, np.arange(N), *optimizer.numbers(ema))
    optimizer.steps += 1
"""
FIRST_STEP = SETUP + OURS + "train(32); print(time.perf_counter() - start)"
OUR_MEMORY = (
    SETUP + OURS + "before = peak()\nfor _ in range(5): train(128)\nprint(peak(), peak() - before)"
)
THEIR_MEMORY = (
    SETUP
    + """
sys.path.insert(0, "benchmarks")
from unets import minddpm, problem
from torch_unets import build_theirs
train = build_theirs(sys.argv[1], "train", problem(minddpm.SMALL, 128))
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


def start_up() -> dict[str, float]:
    """Return the seconds until minddpm is imported and until a first training step is done."""
    with tempfile.TemporaryDirectory() as cache:
        cold = _run(FIRST_STEP, XDG_CACHE_HOME=cache)[0]
        warm = min(_run(FIRST_STEP, XDG_CACHE_HOME=cache)[0] for _ in range(3))
    return {
        "`import minddpm`": min(_run(IMPORT)[0] for _ in range(3)),
        "first training step, kernels compiled on the way (once)": cold,
        "first training step of every later start": warm,
    }


def training_memory(mode: str) -> tuple[float, float]:
    """Return the peak resident GB of training with batch 128, and how much of it the steps added.

    Linux only: reads the kernel's high-water mark. PyTorch's peak includes importing unets.py.
    """
    return tuple(_run(OUR_MEMORY) if mode == "minddpm" else _run(THEIR_MEMORY, mode))

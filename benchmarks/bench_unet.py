"""Time a UNet (minddpm.SMALL): forward, one sampling step, one training step.

PyTorch's eager modes are included if PyTorch and diffusers are installed. torch.compile, OpenVINO
and ONNX Runtime take minutes to compile: only readme_tables.py measures them.

Each result is compared with the reference before it is timed: a wrong result or a NaN fails the
benchmark.
"""

import pytest

import minddpm
from contestants import GPU, THEIRS, clock, share_threads
from measure import settle
from unets import TASKS, build, expected, modes, problem

ROUNDS = {1: 20, 16: 6, 64: 3, 128: 3}
EAGER = [mode for mode in modes("train") if mode in THEIRS]
_wanted = {}


def parameters():
    """Yield (task, N, mode); numpy only for the smaller batches, since it is slow."""
    for task in TASKS:
        for N in ROUNDS:
            for mode in ("numba", *GPU, *EAGER, *(("numpy",) if N <= 16 else ())):
                yield pytest.param(task, N, mode, marks=clock(mode), id=f"{task}-{N}-{mode}")


@pytest.mark.parametrize(("task", "N", "mode"), list(parameters()))
def test_unet(benchmark, task, N, mode):
    share_threads()
    p = problem(minddpm.SMALL, N)
    if (task, N) not in _wanted:
        _wanted[task, N] = expected(task, p)
    run = build(mode, task, p, _wanted[task, N])
    benchmark.group = f"UNet: {task}, {N} image{'s' * (N > 1)}"
    benchmark.name = mode
    settle()
    benchmark.pedantic(run, rounds=ROUNDS[N], warmup_rounds=1)

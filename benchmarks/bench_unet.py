"""The whole UNet (minddpm.SMALL): forward, one sampling step, one training step.

With PyTorch's eager modes where PyTorch and diffusers are installed. torch.compile, OpenVINO and
ONNX Runtime take minutes to compile: report.py measures them, these benchmarks do not.

A result is compared with the reference before it is timed: a wrong or nan one fails the benchmark.
"""

import pytest

import minddpm
from contestants import GPU, THEIRS, clock, share_threads
from unets import TASKS, build, expected, modes, problem

ROUNDS = {1: 20, 16: 6, 64: 3, 128: 3}
EAGER = [mode for mode in modes("train") if mode in THEIRS]
_wanted = {}


def parameters():
    """numpy only for the smaller batches: what it costs is clear from those."""
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
    benchmark.pedantic(run, rounds=ROUNDS[N], warmup_rounds=1)

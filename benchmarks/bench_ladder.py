"""Time every rung of the ladder of convolutions, and the chosen kernel, at the UNet's shapes.

Each result is compared with the reference before it is timed: a wrong result or a NaN fails the
benchmark.
"""

import pytest

from cases import convolutions
from contestants import GPU, clock, expected, fits, ours, rung, share_threads
from measure import settle

ladder = pytest.importorskip("minddpm.kernels.cpu.ladder.choose", exc_type=ImportError)

N = 4
CASES = convolutions(N)


def parameters():
    """Yield (shape, backward, name) for every fitting rung, the chosen kernel and GPU kernels."""
    for shape, make in CASES.items():
        case = make()
        rungs = [name for name in ladder.LADDER if fits(name, case)]
        for backward in (False, True):
            for name in (*rungs, "chosen", *GPU):
                label = f"{shape}{' backward' * backward}"
                yield pytest.param(shape, backward, name, marks=clock(name), id=f"{label}-{name}")


@pytest.mark.parametrize(("shape", "backward", "name"), list(parameters()))
def test_rung(benchmark, shape, backward, name):
    case = CASES[shape]()
    share_threads()
    wanted = expected(case, backward)
    if name == "chosen" or name in GPU:
        run = ours(case, backward, "numba" if name == "chosen" else name, wanted)
    else:
        run = rung(case, backward, name, wanted)
    benchmark.group = f"ladder: {shape}{' backward' * backward}, {N} images"
    benchmark.name = name
    settle()
    benchmark(run)

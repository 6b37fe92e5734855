"""Time every hot operation with each kernel set, and with PyTorch if it is installed.

Each result is compared with the reference before it is timed: a wrong result or a NaN fails the
benchmark.
"""

import pytest

from cases import convolutions, directions, other_operations
from contestants import OURS, clock, expected, layouts, ours, share_threads, theirs
from measure import settle

N = 16
CASES = {**convolutions(N, awkward=True), **other_operations(N)}


def parameters():
    """Yield (name, backward, contestant) for both directions of every operation."""
    for name, backward in directions(CASES):
        for contestant in (*OURS, *layouts(name)):
            label = f"{name}{' backward' * backward}"
            yield pytest.param(
                name, backward, contestant, marks=clock(contestant), id=f"{label}-{contestant}"
            )


@pytest.mark.parametrize(("name", "backward", "contestant"), list(parameters()))
def test_operation(benchmark, name, backward, contestant):
    case = CASES[name]()
    share_threads()
    make = ours if contestant in OURS else theirs
    run = make(case, backward, contestant, expected(case, backward))
    benchmark.group = f"{name}{' backward' * backward}, {N} images"
    benchmark.name = contestant
    settle()
    benchmark(run)

"""One test body over every backend that is present; the header of the run says what is not."""

import pytest

import minddpm
from minddpm import backend
from minddpm.errors import InputError

MISSING = {}
for _name in backend.NAMES:
    try:
        minddpm.set_backend(_name)
    except InputError as problem:
        MISSING[_name] = str(problem)
PRESENT = [name for name in backend.NAMES if name not in MISSING]


def pytest_report_header():
    return [f"backends tested: {', '.join(PRESENT)}"] + [
        f"backend not tested: {name}: {problem}" for name, problem in MISSING.items()
    ]


@pytest.fixture(params=PRESENT)
def any_backend(request):
    """The test runs once for each backend."""
    minddpm.set_backend(request.param)
    return request.param


@pytest.fixture(autouse=True)
def _start_from_numpy():
    """Every test starts on NumPy from the same seed, whatever the one before it did."""
    minddpm.set_backend("numpy")
    minddpm.manual_seed(0)

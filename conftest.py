"""`pytest` runs tests/, `pytest --benchmark-only` runs benchmarks/."""

import importlib.util
import sys

if "--benchmark-only" in sys.argv and importlib.util.find_spec("torch"):
    # Before tests/conftest.py loads the Numba kernels: benchmarks/contestants.py says why.
    import torch  # noqa: F401


def pytest_collection_modifyitems(config, items):
    timing = config.getoption("benchmark_only")
    unwanted = [item for item in items if item.path.name.startswith("bench_") != timing]
    config.hook.pytest_deselected(items=unwanted)
    items[:] = [item for item in items if item.path.name.startswith("bench_") == timing]


def pytest_report_header(config):
    if not config.getoption("benchmark_only"):
        return []
    lines = ["benchmarks: 3 minutes; python benchmarks/report.py makes the README's tables"]
    if missing := [name for name in ("torch", "diffusers") if not importlib.util.find_spec(name)]:
        needed = 'pip install -e ".[parity]"'
        lines.append(f"PyTorch is not compared: {' and '.join(missing)} not installed ({needed})")
    return lines

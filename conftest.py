"""`pytest` runs tests/, `pytest --benchmark-only` runs benchmarks/."""

import importlib.util
import sys

import pytest

if "--benchmark-only" in sys.argv and importlib.util.find_spec("torch"):
    # Before tests/conftest.py loads the Numba kernels; the reason is in benchmarks/contestants.py.
    import torch  # noqa: F401


def pytest_collection_modifyitems(config, items):
    timing = config.getoption("benchmark_only")
    deselected = [item for item in items if item.path.name.startswith("bench_") != timing]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item.path.name.startswith("bench_") == timing]


def pytest_report_header(config):
    if not config.getoption("benchmark_only"):
        return []
    from summary import noise, quiet_line

    lines = ["benchmarks: 3 minutes; benchmarks/readme_tables.py makes the documents' tables"]
    lines.append(quiet_line(noise()))
    if missing := [name for name in ("torch", "diffusers") if not importlib.util.find_spec(name)]:
        needed = 'pip install -e ".[parity]"'
        lines.append(f"without PyTorch: {' and '.join(missing)} not installed ({needed})")
    return lines


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("benchmark_only"):
        return
    from summary import compare, summary

    medians = {}
    for benchmark in config._benchmarksession.benchmarks:
        medians.setdefault(benchmark.group, {})[benchmark.name] = benchmark.stats.median
    if rows := compare(medians):
        terminalreporter.write_line(summary(rows))

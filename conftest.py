"""`pytest` runs tests/, `pytest --benchmark-only` runs benchmarks/."""


def pytest_collection_modifyitems(config, items):
    timing = config.getoption("benchmark_only")
    unwanted = [item for item in items if item.path.name.startswith("bench_") != timing]
    config.hook.pytest_deselected(items=unwanted)
    items[:] = [item for item in items if item.path.name.startswith("bench_") == timing]

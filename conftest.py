"""`pytest` collects tests/, `pytest --benchmark-only` collects benchmarks/."""


def pytest_ignore_collect(collection_path, config):
    unwanted = "tests" if config.getoption("benchmark_only") else "benchmarks"
    return True if collection_path.name == unwanted else None

"""The fuzzing part of the campaign: damaged files, odd values, odd command lines."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from command_lines import command_targets
from processes import Target, try_all
from readers import file_targets
from report import Row, chosen_names
from tiny_commands import load_commands, stop_before_work, write_fixtures

COUNT = 100_000  # inputs


def run(seed: int, count: int, only: Sequence[str] | None = None, first: int = 0) -> list[Row]:
    """Try `count` inputs, from index `first` of each target; only: names of targets."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = os.environ["HOME"] = folder  # holds no MNIST
        base = Path(folder, "files")
        base.mkdir()
        targets = build(base)
        names = chosen_names((target.name for target in targets), only)
        chosen = [target for target in targets if target.name in names]
        return try_all(chosen, base, seed, count, first, os.cpu_count() or 1)


def build(base: Path) -> list[Target]:
    """Write the files that the targets need into the folder `base`, and return the targets."""
    modules = load_commands()
    write_fixtures(base, modules)
    stop_before_work(modules)
    return [*file_targets(base, modules), *command_targets(modules)]

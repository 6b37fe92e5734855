"""The fuzzing part of the campaign: damaged files, odd values, odd command lines."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from command_lines import command_targets
from processes import Target, try_all
from readers import file_targets
from report import Row
from tiny_commands import load_commands, stop_before_work, write_fixtures

from minddpm.errors import InputError

INPUTS = 100_000  # at scale 1


def run(seed: int, scale: float, only: Sequence[str] | None = None, first: int = 0) -> list[Row]:
    """Try INPUTS x scale inputs, from index `first` of each target; only: names of targets."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = os.environ["HOME"] = folder  # holds no MNIST
        base = Path(folder, "files")
        base.mkdir()
        targets = build(base)
        if unknown := set(only or ()) - {target.name for target in targets}:
            names = ", ".join(target.name for target in targets)
            raise InputError(f"there is no target {unknown.pop()!r}: choose from {names}.")
        chosen = [target for target in targets if only is None or target.name in only]
        return try_all(chosen, base, seed, round(INPUTS * scale), first, os.cpu_count() or 1)


def build(base: Path) -> list[Target]:
    """Write the files that the targets need into the folder `base`, and return the targets."""
    modules = load_commands()
    write_fixtures(base, modules)
    stop_before_work(modules)
    return [*file_targets(base, modules), *command_targets(modules)]

"""Try inputs of many targets in processes with limits, several at a time."""

import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from attempt import RESULT, SECONDS, SENTENCE, limit_memory, outcome
from report import Row
from sources import Source
from tqdm import tqdm

CHUNK = 200  # inputs that one process tries
SAVED = Path(tempfile.gettempdir(), "minddpm-findings")  # the first input of each finding
PROCESSES = get_context("fork")  # a child has the targets that its parent has built


class Target(NamedTuple):
    """A reader: use(input, folder) reads an input.

    share: of all inputs, relative to the other targets'. sources: they make the inputs in turns.
    folder: the working directory of the process, a copy of the base folder.
    """

    name: str
    share: int
    sources: Sequence[Source]
    use: Callable[[bytes, Path], object]

    def input(self, seed: int, index: int) -> bytes:
        turn, source = divmod(index, len(self.sources))
        return self.sources[source].input(f"{seed}/{self.name}/{source}", turn)


class Chunk(NamedTuple):
    """Inputs first .. end - 1 of a target."""

    target: Target
    first: int
    end: int


def try_all(
    targets: Sequence[Target], base: Path, seed: int, inputs: int, first: int = 0, workers: int = 2
) -> list[Row]:
    """Try at least `inputs` inputs from index `first` of each target; return a row for each."""
    shares = sum(target.share for target in targets)
    counts = {t.name: math.ceil(inputs * t.share / shares) for t in targets}
    outcomes = {target.name: Counter() for target in targets}
    where: dict[tuple[str, str], int] = {}
    with tqdm(total=sum(counts.values()), unit="input", disable=None) as bar:
        for target, index, result in _outcomes(targets, base, seed, counts, first, workers):
            outcomes[target.name][result] += 1
            known = where.get((target.name, result), index)
            where[target.name, result] = min(known, index)
            bar.update()
    return [_row(target, outcomes[target.name], where, seed) for target in targets]


def _row(target: Target, found: Counter, where: dict[tuple[str, str], int], seed: int) -> Row:
    findings = []
    for result in found.keys() - {RESULT, SENTENCE}:
        index = where[target.name, result]
        path = SAVED / f"{target.name.replace(' ', '-')}-{index}"
        SAVED.mkdir(exist_ok=True)
        path.write_bytes(target.input(seed, index))
        findings.append(
            f"{target.name}: {result} ({found[result]} inputs); the first again: --only "
            f"'{target.name}' --seed {seed} --first {index} --count 1; it is in {path}"
        )
    counts = {name: found[name] for name in (RESULT, SENTENCE)}
    return Row(target.name, found.total(), counts, findings)


# --- processes -----------------------------------------------------------------------------------


def _outcomes(
    targets: Sequence[Target],
    base: Path,
    seed: int,
    counts: dict[str, int],
    first: int,
    workers: int,
) -> Iterator[tuple[Target, int, str]]:
    """Yield (target, index, outcome) for every input, in the order in which they end."""
    todo = [
        Chunk(target, start, min(start + CHUNK, first + counts[target.name]))
        for target in targets
        for start in range(first, first + counts[target.name], CHUNK)
    ]
    running: dict[Connection, _Child] = {}
    while todo or running:
        while todo and len(running) < workers:
            child = _Child(todo.pop(), base, seed)
            running[child.pipe] = child
        for pipe in wait(list(running), timeout=1):
            child = running[pipe]
            try:
                result = pipe.recv()
            except EOFError:
                result = child.ended()
            if result is not None:
                yield child.chunk.target, child.index, result
                child.index += 1
            if pipe.closed:
                del running[pipe]
                if child.index < child.chunk.end:
                    todo.append(child.chunk._replace(first=child.index))
        for child in running.values():
            child.kill_if_stuck()


class _Child:
    """A process that tries the inputs of a chunk."""

    def __init__(self, chunk: Chunk, base: Path, seed: int):
        self.chunk, self.index = chunk, chunk.first
        self.pipe, theirs = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=_work, args=(chunk, base, seed, theirs))
        self.process.start()
        theirs.close()
        self.heard = time.monotonic(), self.index

    def ended(self) -> str | None:
        """Close the pipe; return the finding if the process died at an input."""
        self.process.join()
        self.pipe.close()
        code = self.process.exitcode
        return f"the process ended with {code}" if self.index < self.chunk.end else None

    def kill_if_stuck(self) -> None:
        """Kill the process if even the alarm did not end the current input."""
        if self.heard[1] != self.index:
            self.heard = time.monotonic(), self.index
        elif time.monotonic() - self.heard[0] > 6 * SECONDS:
            self.process.kill()


def _work(chunk: Chunk, base: Path, seed: int, pipe: Connection) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "files")
        shutil.copytree(base, copy)
        os.chdir(copy)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints there
        limit_memory()
        for index in range(chunk.first, chunk.end):
            data = chunk.target.input(seed, index)
            pipe.send(outcome(chunk.target.use, data, copy))
        os.chdir("/")

"""Meet trainings with faults: kills, full and read-only disks, clocks, other processes, no memory.

After each fault no file may be damaged, the same command must go on with --resume, and it must end
with the same bytes as a run without a fault. Anything else is a finding.
"""

import contextlib
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import ranks
from failing_disk import FULL, NO_PERMISSION, READ_ONLY, FailingDisk
from rank_training import RankTraining
from report import Row, chosen_names
from small_disk import small_disk
from tiny_training import PROCESSES, SECONDS, STEPS, Ended, Training, damaged, step
from tqdm import std as tqdm_module
from tqdm import tqdm

from minddpm.training.run_directory import RUN

COUNT = 200  # kills; the number of other faults is relative to it
COMPILING = 10  # one kill of so many while kernels are compiled
COMPILES_SECONDS = 10.0  # about the time of a training with an empty cache
MEGABYTES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # that a process may use
MOMENTS = (
    "start", "before the first checkpoint", "between checkpoints", "while a file is written",
    "samples and figures",
)  # fmt: skip
FINISHED, SENTENCE, DIED = "finished", "one sentence", "process died"


_used_up: list[bytearray] = []


class Trial(NamedTuple):
    """How a training with a fault ended, and what was wrong then or later."""

    name: str
    outcome: str
    findings: list[str]


def run(seed: int, count: int = COUNT, only: Sequence[str] | None = None) -> list[Row]:
    """Meet trainings with `count` kills and other faults; only: names of parts, see PARTS."""
    counts: dict[str, dict[str, int]] = {}
    findings: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder, tqdm(unit="fault", disable=None) as bar:
        training = Training(Path(folder))
        for name in chosen_names(PARTS, only):
            for trial in PARTS[name](training, Random(f"{seed}/{name}"), count / COUNT):
                counts.setdefault(trial.name, dict.fromkeys((FINISHED, SENTENCE, DIED), 0))
                counts[trial.name][trial.outcome] += 1
                findings.setdefault(trial.name, []).extend(trial.findings)
                bar.set_postfix_str(trial.name)
                bar.update()
    return [Row(name, sum(c.values()), c, findings[name]) for name, c in counts.items()]


def _trial(name: str, training: Training, out: Path, ended: Ended, may_die: bool = False) -> Trial:
    """Return the trial of a run that has ended; may_die: also in another way than it should."""
    wrong = training.after(out)
    if ended.refused or ended.code == 0:
        outcome = SENTENCE if ended.refused else FINISHED
    else:
        outcome = DIED
        if not may_die:
            wrong = [f"{out} ended with {ended.code}: {ended.line}", *wrong]
    return Trial(name, outcome, [f"{name}: {line}" for line in wrong])


# --- kill -9 -------------------------------------------------------------------------------------


def kills(training: Training, rng: Random, scale: float) -> Iterator[Trial]:
    """Kill runs at random moments until they are complete, again and again."""
    seconds = _seconds(training)
    left = max(1, round(COUNT * scale * (1 - 1 / COMPILING)))
    while left:
        out = training.new()
        for _ in range(left):
            moment = _kill(training, out, rng.uniform(0, seconds))
            if moment is None:
                break
            left -= 1
            yield Trial(f"kill -9: {moment}", DIED, _findings(moment, out))
        yield Trial("runs complete after kills", FINISHED, training.after(out))


def _seconds(training: Training) -> float:
    started = time.perf_counter()
    training.after(training.new())
    return time.perf_counter() - started


def _kill(training: Training, out: Path, delay: float, **options: Any) -> str | None:
    """Go on with a run, and kill it after `delay` seconds; return its moment, None if complete."""
    before = step(out) if out.exists() else None
    process = training.start(out, **options)
    process.join(delay)
    complete = process.exitcode == 0
    process.kill()
    ended = training.end(out, process)
    if complete:
        return None
    if ended.code > 0:
        return f"did not go on: {ended.line}"
    if wrong := damaged(out):
        return wrong[0]
    now = step(out) if out.exists() else None
    if before is not None and (now is None or now < before):
        return "lost its checkpoint"
    if any(out.rglob(".*.tmp")):
        return "while a file is written"
    if now is not None:
        return "between checkpoints" if now < STEPS else "samples and figures"
    return "before the first checkpoint" if (out / RUN).exists() else "start"


def _findings(moment: str, out: Path) -> list[str]:
    return [] if moment in MOMENTS else [f"kill -9: {out}: {moment}"]


def kills_while_compiling(training: Training, rng: Random, scale: float) -> Iterator[Trial]:
    """Kill runs while they compile kernels; the next one finds the cache as it was left."""
    numba = Training(training.folder, "numba")
    left = max(1, round(COUNT * scale / COMPILING))
    while left:
        out = numba.new()
        cache = training.folder / f"cache-{out.name}"

        def use_cache(cache: Path = cache) -> None:
            os.environ["XDG_CACHE_HOME"] = str(cache)

        while left:
            delay = rng.uniform(1, COMPILES_SECONDS)
            moment = _kill(numba, out, delay, before=use_cache, program=True)
            if moment is None:
                break
            left -= 1
            yield Trial("kill -9: kernels are compiled", DIED, _findings(moment, out))
        ended = numba.end(out, numba.start(out, before=use_cache, program=True))
        yield _trial("runs complete after kills", numba, out, ended)


def killed_ranks(training: Training, rng: Random, scale: float) -> Iterator[Trial]:
    """Kill one of two ranks at random moments: the other one ends, too, and nothing is lost."""
    if ranks.MPIRUN is None:
        return
    two = RankTraining(training.folder / "ranks")
    seconds = _seconds(two)
    for _ in range(max(1, round(20 * scale))):
        out = two.new()
        process = two.start(out)
        process.join(rng.uniform(0, seconds))
        process.kill_rank(rng)
        process.join(SECONDS)
        hangs = process.exitcode is None
        trial = _trial("kill -9: one of two ranks", two, out, two.end(out, process), may_die=True)
        wrong = [f"{out}: a rank waits for one that was killed"] if hangs else []
        yield trial._replace(findings=wrong + trial.findings)


# --- disks ---------------------------------------------------------------------------------------


def failing_disks(training: Training, rng: Random, scale: float) -> Iterator[Trial]:
    """Let every write fail, from the k-th on, for each k."""
    for name, error in (
        ("disk full from the k-th write on", FULL),
        ("directory read-only from the k-th write on", READ_ONLY),
        ("permission lost from the k-th write on", NO_PERMISSION),
    ):
        count = PROCESSES.Value("i", 0)
        out = training.new()
        disk = FailingDisk(out, error, None, count)
        training.end(out, training.start(out, before=disk.install))
        every = 1 if error == FULL else 6
        ks = range(1, count.value + 1, every)
        for k in rng.sample(ks, max(1, round(len(ks) * min(1.0, scale)))):
            out = training.new()
            disk = FailingDisk(out, error, k, PROCESSES.Value("i", 0))
            ended = training.end(out, training.start(out, before=disk.install))
            yield _trial(name, training, out, ended)


def full_disks(training: Training, rng: Random, scale: float) -> Iterator[Trial]:
    """Fill a small tmpfs at random moments. Does nothing without the right to mount one."""
    with small_disk() as disk:
        if disk is None:
            return
        small = Training(disk.path, messages=training.folder)
        seconds = _seconds(small)
        for _ in range(max(1, round(20 * scale))):
            out = small.new()
            process = small.start(out)
            process.join(rng.uniform(0, seconds))
            disk.fill()
            process.join()
            disk.empty()
            yield _trial("tmpfs full at a random moment", small, out, small.end(out, process))


# --- clock, other processes, memory --------------------------------------------------------------


def clocks(training: Training, rng: Random, scale: float) -> Iterator[Trial]:
    """Set the clock back while a run trains, and the times of its files."""
    real = time.time

    for _ in range(max(1, round(10 * scale))):
        started, out = real(), training.new()

        def backwards(started: float = started) -> None:
            time.time = tqdm_module.time = lambda: 2 * started - real()

        process = training.start(out, before=backwards)
        process.join(rng.uniform(0.2, 0.6))
        process.kill()
        process.join()
        for path in out.rglob("*"):
            moment = rng.uniform(0, 2 * started)  # from 1970 to far in the future
            os.utime(path, (moment, moment))
        ended = training.end(out, training.start(out, before=backwards))
        yield _trial("clock set back", training, out, ended)


def two_processes(training: Training, rng: Random, scale: float) -> Iterator[Trial]:
    """Start a second process in the directory of a run: only one may train."""
    seconds = _seconds(training)
    left = max(1, round(20 * scale))
    while left:
        out = training.new()
        first = training.start(out)
        first.join(rng.uniform(0, 0.8 * seconds))
        if first.exitcode is not None:  # too late
            continue
        os.kill(first.pid, signal.SIGSTOP)  # so that it does not end before the second begins
        if training.is_complete(out):  # it has released the lock, or is about to
            os.kill(first.pid, signal.SIGCONT)
            training.end(out, first)
            continue
        left -= 1
        other = training.folder / f"{out.name}-link"  # another name, so other messages
        other.symlink_to(out)
        second = training.start(other)
        ends = [training.end(other, second)]
        os.kill(first.pid, signal.SIGCONT)
        ends.append(training.end(out, first))
        other.unlink()
        wrong = []
        if sorted(ended.code for ended in ends) != [0, 2]:
            wrong = [f"{out}: two processes ended with {[(e.code, e.line) for e in ends]}"]
        trial = _trial("second process in a run directory", training, out, ends[0])
        yield trial._replace(findings=wrong + trial.findings)


def memory(training: Training, rng: Random, scale: float) -> Iterator[Trial]:
    """Let allocations fail, at several limits."""
    for backend in ("numpy", "numba"):
        chosen = training if backend == "numpy" else Training(training.folder, backend)
        limits = MEGABYTES if scale >= 1 else MEGABYTES[2:3]
        for megabytes in limits:
            out = chosen.new()
            ended = chosen.end(out, chosen.start(out, before=_limit(megabytes)))
            yield _trial(f"too little memory, {backend}", chosen, out, ended, may_die=True)


def _limit(megabytes: int) -> Callable[[], None]:
    """Return a function that leaves its process so much memory, in pieces of 64 KiB."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        # What earlier work has freed, and the process still has, would be used first.
        with contextlib.suppress(MemoryError):
            while True:
                _used_up.append(bytearray(2**16))
        for _ in range(16 * megabytes):
            if _used_up:
                _used_up.pop()

    return limit


PARTS = {
    part.__name__: part
    for part in (
        kills, killed_ranks, kills_while_compiling, failing_disks, full_disks, clocks,
        two_processes, memory,
    )
}  # fmt: skip

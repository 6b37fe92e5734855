"""The training of tiny_training.py in two ranks, of which one can be killed."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import ranks
import tiny_training
from tiny_training import Training, command_line

from minddpm.training.run_directory import RUN


class Launched:
    """mpirun and its ranks, with what Training uses of a process."""

    def __init__(self, words: list[str], stderr: Path):
        with open(stderr, "w") as file:
            self._mpirun = subprocess.Popen(
                ranks.command(2, tiny_training.__file__, *words), stdout=subprocess.DEVNULL,
                stderr=file, env={**os.environ, **ranks.ENVIRONMENT}, start_new_session=True,
            )  # fmt: skip

    @property
    def exitcode(self) -> int | None:
        return self._mpirun.poll()

    def join(self, seconds: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._mpirun.wait(seconds)

    def kill(self) -> None:
        """End all that still runs."""
        for pid in self._ranks():
            os.kill(pid, signal.SIGKILL)
        self._mpirun.kill()

    def kill_rank(self, rng: Random) -> None:
        """Kill one rank, if there is one."""
        if pids := self._ranks():
            os.kill(rng.choice(pids), signal.SIGKILL)

    def _ranks(self) -> list[int]:
        """Return the processes of Python that descend from mpirun."""
        parents, python = {}, []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                program = (folder / "cmdline").read_bytes().split(b"\0")[0]
            except OSError:  # it has just ended
                continue
            parents[int(folder.name)] = int(stat[1])
            if program == sys.executable.encode() and stat[0] != "Z":
                python.append(int(folder.name))

        def descends(pid: int) -> bool:
            while pid in parents:
                if pid == self._mpirun.pid:
                    return True
                pid = parents[pid]
            return False

        return [pid for pid in python if descends(pid)]


class RankTraining(Training):
    """A training in two ranks; all its runs end with the same bytes."""

    def start(self, out: Path, **options: object) -> Launched:
        """Start the run in `out`, or resume it if there is one, and return its processes."""
        words = command_line(self.folder / "images", out, self.backend)
        return Launched([*words, *["--resume"][: (out / RUN).exists()]], self._stderr(out))

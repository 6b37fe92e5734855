"""Runs workers (worker.py) until every row has a result or the time is over."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from minddpm.errors import InputError
from minddpm.gpucheck.worker import LOST

WORKER = (sys.executable, "-m", "minddpm.gpucheck.worker")
ROW_SECONDS = 180  # of one row, before its process is ended
LONG = "compile"  # the kind of row that may take longer, as on a notebook's slow cores
LONG_SHARE = 0.75  # of the seconds that are left
NOT_STARTED: dict[str, Any] = {  # the plan if no process has sent one
    "kind": "plan", "machine": {"GPU": "not known: the process that uses it did not start"},
    "emulated": False, "rows": [["check", "start of the process that uses the GPU"]],
}  # fmt: skip


class Worker:
    """A process whose lines of JSON are read with a time limit; its stderr is shown."""

    def __init__(self, command: Sequence[str]):
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._selector = selectors.DefaultSelector()
        for stream in (self._process.stdout, self._process.stderr):
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ)
        self._lines = b""
        self._errors = b""

    def next(self, seconds: float) -> dict[str, Any] | None:
        """Return the next record, or None if the process has ended; TimeoutError if it is late."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._lines:
            if not self._selector.get_map():
                self._process.wait()
                return None
            ready = self._selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no result within {seconds:.0f} s")
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    self._selector.unregister(key.fileobj)
                elif key.fileobj is self._process.stdout:
                    self._lines += data
                else:  # such as the progress of a compilation
                    self._errors = (self._errors + data)[-4000:]
                    text = data.decode(errors="replace")
                    print(text, end="", file=sys.stderr, flush=True)
        line, _, self._lines = self._lines.partition(b"\n")
        return json.loads(line)

    def end(self) -> int:
        """End the process and all that it has started; return its exit code."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        for stream in (self._process.stdout, self._process.stderr):
            stream.close()
        return self._process.wait()

    def last_words(self) -> str:
        """Return the last line that the process has printed on stderr."""
        lines = self._errors.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a message"


def results(
    seconds: float, row_seconds: float = ROW_SECONDS, worker: Sequence[str] = WORKER
) -> Iterator[dict[str, Any]]:
    """Yield the plan, and then a record for each row, in order, with states between them.

    A row whose process died or was ended has kind "lost" and a "problem"; a row for which no time
    was left has kind "not run". If the first worker sends no plan, its start is the only row, and
    lost. worker: the command, to which --first and --seconds are added. Raises InputError if the
    first worker refuses, as without a GPU.
    """
    deadline, plan, done = time.monotonic() + seconds, None, 0
    while plan is None or done < len(plan["rows"]):
        if time.monotonic() >= deadline and plan is not None:
            break
        left = max(0.0, deadline - time.monotonic())
        process = Worker([*worker, "--first", str(done), "--seconds", f"{left:.0f}"])
        problem, begun = None, False
        try:
            while record := process.next(_limit(deadline, row_seconds, plan, done)):
                if record["kind"] == "refused":
                    problem = record["problem"]
                    if plan is None:
                        raise InputError(problem)
                elif record["kind"] == "plan":
                    if plan is None:
                        plan = record
                        yield plan
                elif record["kind"] == "begin":
                    begun = True
                elif record["kind"] == "state":
                    yield record
                elif record["kind"] != "end":
                    begun, done = False, done + 1
                    yield record
        except TimeoutError as late:
            problem = str(late)
        finally:
            code = process.end()
        ended = f"the process ended with exit code {code}: {process.last_words()}"
        if plan is None:
            plan, begun = NOT_STARTED, True
            yield plan
        elif done == len(plan["rows"]) or (problem and time.monotonic() >= deadline):
            break
        if begun or problem or code != LOST:  # else the row that lost the device has its record
            kind, name = plan["rows"][done]
            yield {"kind": "lost", "row": done, "of": kind, "name": name, "ok": False,
                   "problem": problem or ended}  # fmt: skip
            done += 1
    for number in range(done, len(plan["rows"])):
        kind, name = plan["rows"][number]
        yield {"kind": "not run", "row": number, "of": kind, "name": name}


def _limit(deadline: float, row_seconds: float, plan: dict[str, Any] | None, done: int) -> float:
    """Return how many seconds the next record may take."""
    left = max(0.0, deadline - time.monotonic())
    if plan and done < len(plan["rows"]) and plan["rows"][done][0] == LONG:
        row_seconds = max(row_seconds, LONG_SHARE * left)
    return min(left, row_seconds)

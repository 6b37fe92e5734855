"""Try one input within limits of time and memory, and name the outcome."""

import contextlib
import io
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from minddpm.errors import InputError

RESULT, SENTENCE = "a result", "one sentence"  # the allowed outcomes
SECONDS = 10
MEMORY = 10**9  # bytes that one input may add to the process
LONGEST = 1000  # characters of a sentence


class Reached(BaseException):
    """A command passed all its checks and would begin its work: a result."""


class TooSlow(BaseException):
    """An input took longer than SECONDS. Not an Exception, which a reader might catch."""


def outcome(use: Callable[[bytes, Path], object], data: bytes, folder: Path) -> str:
    """Return RESULT or SENTENCE; for anything else, the finding."""
    before = _peak_memory()
    try:
        with _quiet(), _time_limit():
            use(data, folder)
        result = RESULT
    except Reached:
        result = RESULT
    except InputError as error:
        result = SENTENCE if is_sentence(str(error)) else f"not one sentence: {str(error)[:200]!r}"
    except TooSlow as error:
        result = f"longer than {SECONDS} s {_place(error)}"
    except BaseException as error:
        result = f"{type(error).__name__} {_place(error)}"
    grown = _peak_memory() - before
    return f"{grown / 1e9:.1f} GB of memory" if grown > MEMORY else result


def is_sentence(text: str) -> bool:
    """Return whether text is one line that ends in a period and can be printed and read."""
    return text.isprintable() and text.endswith(".") and len(text) <= LONGEST


def limit_memory() -> None:
    """Make an allocation of more than one and a half times MEMORY fail in this process.

    Less than that is found by outcome(), even if the reader would survive a failed allocation.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + 3 * MEMORY // 2
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _place(error: BaseException) -> str:
    """Return the last line of the project's own code in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f for f in frames if "site-packages" not in f.filename and "/lib/python" not in f.filename
    ]
    last = (ours or frames)[-1]
    return f"in {Path(last.filename).name}:{last.lineno}"

"""Run a check on what the student wrote, and say where it failed."""

import importlib.util
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from checker.compare import NotPassed
from checker.launch import Kernel

PASSED, NOT_STARTED, NOT_PASSED = "passed", "not started", "not passed"


class Result(NamedTuple):
    """The state of an exercise, and what went wrong."""

    state: str
    message: str = ""


def run(check: Callable[[ModuleType], None], file: Path) -> Result:
    """Run the check of an exercise in Python."""
    student = None
    try:
        student = load(file)
        check(student)
    except NotImplementedError:
        return Result(NOT_STARTED)
    except NotPassed as problem:
        return Result(NOT_PASSED, str(problem))
    except Exception as error:
        if isinstance(error, AttributeError) and error.obj is student:
            return Result(NOT_PASSED, f"There is no function {error.name}: keep its name.")
        if not (where := _line_of(file, error)):
            raise
        return Result(NOT_PASSED, f"{type(error).__name__}: {error}\n{where}")
    return Result(PASSED)


def load(file: Path) -> ModuleType:
    """Import the student's file."""
    spec = importlib.util.spec_from_file_location("exercise", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _line_of(file: Path, error: Exception) -> str:
    """Return the line of the file that the error came from; "" if it came from elsewhere."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f"{file.name}:{error.lineno}:  {(error.text or '').strip()}"
    return _last_line(file, traceback.extract_tb(error.__traceback__))


def _last_line(file: Path, stack: traceback.StackSummary) -> str:
    lines = [frame for frame in stack if frame.filename == str(file)]
    return f"{file.name}:{lines[-1].lineno}:  {lines[-1].line}" if lines else ""


@contextmanager
def time_limit(file: Path, seconds: float) -> Iterator[None]:
    """End the process if the block takes longer, and print which line of the file runs."""
    thread = threading.get_ident()

    def stop() -> None:
        stack = traceback.extract_stack(sys._current_frames()[thread])
        print(f"{file.stem}: {NOT_PASSED}")
        print(f"It ran for more than {seconds} seconds: does a loop never end?")
        print(_last_line(file, stack) or "It is in the kernel.", flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def run_kernel(check: Callable[[Kernel], None], file: Path, page: Path | None = None) -> Result:
    """Run the check of an exercise in CUDA. Raises InputError if there is no compiler.

    page: file for the profile of the check's last launch.
    """
    kernel = Kernel(file)
    if kernel.is_empty():
        return Result(NOT_STARTED)
    try:
        check(kernel)
    except NotPassed as problem:
        return Result(NOT_PASSED, str(problem))
    finally:
        if page:
            _write(page, kernel)
    return Result(PASSED)


def _write(page: Path, kernel: Kernel) -> None:
    if text := kernel.page():
        page.write_text(text, encoding="utf-8")
        print(f"page: {page}")
    else:
        print("no page: no launch of the kernel ended without an error")

"""A command in several ranks: one of them speaks, and one that fails ends them all.

Every rank runs the whole command. Only rank 0 prints; the sentence of an error that all ranks have
is thus printed once. An error of one rank alone is printed with its number, and ends the others,
which would wait for it forever.
"""

import io
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

from minddpm import parallel
from minddpm.commands import program
from minddpm.errors import InputError


def run(command: Callable[[], int], in_ranks: bool, bad_input: int) -> int:
    """Return the exit code of command(), which prints its own errors.

    in_ranks: whether the command divides its work over ranks. bad_input: the exit code if it does
    not, but was started in several, or if they cannot be connected.
    """
    number, size = parallel.launched()
    if size == 1:
        return command()
    try:
        if not in_ranks:
            raise InputError(
                f"{program.name()} does not divide its work over ranks: start it without a "
                "launcher."
            )
        world = parallel.join()
    except InputError as error:
        if number == 0:
            print(f"error: {error}", file=sys.stderr)
        return bad_input
    return _in_rank(command, world)


def _in_rank(command: Callable[[], int], world: parallel.Alone) -> int:
    said, stderr = io.StringIO(), sys.stderr
    with open(os.devnull, "w") as nowhere:
        silent = world.rank > 0
        with (
            redirect_stdout(nowhere if silent else sys.stdout),
            redirect_stderr(said if silent else stderr),
        ):
            try:
                code = command()
            except SystemExit as error:  # argparse
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
            except BaseException:
                traceback.print_exc()
                code = 1

    def report() -> None:
        for line in said.getvalue().splitlines():
            print(f"rank {world.rank}: {line}", file=stderr, flush=True)

    return world.leave(code, report)

"""Completion of words by the shell, by argcomplete: pip install "minddpm[completion]".

    eval "$(register-python-argcomplete minddpm)"    # in the shell, or its start file

When the user presses Tab, the shell starts minddpm with the line typed so far in the environment.
"""

import argparse
import os
import sys

WANTED = "_ARGCOMPLETE"  # argcomplete's variable: which word of the line is the program


def enter() -> None:
    """Read the words before the one to complete into sys.argv, if the shell wants completions."""
    if WANTED in os.environ:
        import argcomplete

        line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
        sys.argv[1:] = argcomplete.split_line(line, point)[3][1:]
        if len(sys.argv) > 1:
            os.environ[WANTED] = "2"  # the second word, the command, has the options that follow


def complete(parser: argparse.ArgumentParser) -> None:
    """Write the words that may follow and end the process, if the shell wants completions."""
    if WANTED in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)

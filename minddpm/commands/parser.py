"""The parser of a command: options in groups, and a --help that fits on one screen."""

import argparse
import shutil
import textwrap
from pathlib import Path
from typing import Any

from minddpm.commands import completion, program


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Describes a value by its type, N for --batch-size, and not by repeating the option's name."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=27)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Any:
        kind = {float: "X", Path: "PATH", str: "NAME", None: "NAME"}.get(action.type, "N")
        metavar = action.metavar or ("NAME" if action.choices else kind)
        return lambda size: (metavar,) * size


class ShortHelp(argparse.Action):
    """Prints the help, in which the last group only names its options; `--help-all` prints all."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, CommandParser)
        described = [a for a in parser.rare._group_actions if a.help != argparse.SUPPRESS]
        names = " ".join(action.option_strings[-1] for action in described)
        width = shutil.get_terminal_size().columns - 4
        parser.rare.description = textwrap.fill(names, width, break_on_hyphens=False) or None
        for action in described:
            action.help = argparse.SUPPRESS
        parser.print_help()
        parser.exit()


class CommandParser(argparse.ArgumentParser):
    """A parser with one group for each title, then `machine`, and last `rare`.

    doc: the docstring of the command's module. name: of the command where minddpm does not start
    it, if not that of its file.
    """

    def __init__(self, doc: str | None, *titles: str, name: str | None = None):
        super().__init__(
            prog=program.name(name), usage="%(prog)s [options]", description=doc,
            formatter_class=Formatter, add_help=False,
        )  # fmt: skip
        self.groups = [self.add_argument_group(title) for title in titles]
        self.machine = self.add_argument_group("machine")
        self.rare = self.add_argument_group("rarely used; --help-all describes them")
        self.rare.add_argument("-h", "--help", action=ShortHelp, nargs=0, help=argparse.SUPPRESS)
        self.rare.add_argument("--help-all", action="help", help=argparse.SUPPRESS)

    def parse_args(self, *args: Any, **kwargs: Any) -> argparse.Namespace:
        """Return the arguments, or the words that may follow to a shell that asks for them."""
        completion.complete(self)
        return super().parse_args(*args, **kwargs)

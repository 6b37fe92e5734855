"""The targets that are command lines, built from the commands' own argparse parsers."""

import argparse
import json
import os
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import ModuleType
from unittest import mock

from hypothesis import strategies as st
from processes import Target
from sources import Drawn
from tiny_commands import call

INTEGERS = ["0", "1", "2", "3", "40", "41", "-1", "4294967296", "10" * 9, "9" * 5000, "1e3"]
NUMBERS = ["0", "0.5", "1", "2", "-1", "nan", "inf", "-inf", "1e308", "1e999", "1e-320", "0x1"]
TEXTS = ["", " ", "x", "é", "\u202e", "\ud800", "-", "--", "a\nb", "numpy", "cupy", "../x", "%s"]
PATHS = [
    "", ".", "..", "run", "vae", "gan", "digits", "new/folder", "new.png", "empty", "nowhere",
    "run/run.json", "judge.safetensors", "digits/t10k-images-idx3-ubyte", "archive.npz", "/proc/x",
    "/dev/null", "/dev/null/x", "x" * 300, "é\u202e\n", "\udcff", "~",
]  # fmt: skip
# With these words a command reaches its work; others follow them and count instead.
DATA, MODEL = ["--data-dir", "digits"], ["--model", "run"]
USUAL = {
    "sample": MODEL, "inpaint": [*MODEL, *DATA], "interpolate": [*MODEL, *DATA], "evaluate": DATA,
}  # fmt: skip


def command_targets(modules: dict[str, ModuleType]) -> list[Target]:
    """Return a target for each command."""
    return [
        Target(f"{name}.py", 1, [Drawn(_lines(module, USUAL.get(name, DATA)))], _use(module))
        for name, module in modules.items()
    ]


def _use(module: ModuleType) -> Callable[[bytes, Path], None]:
    def use(data: bytes, folder: Path) -> None:
        place = folder.with_name("copy")  # a command may change a run, or write a file
        shutil.copytree(folder, place)
        os.chdir(place)
        try:
            call(module, json.loads(data))
        finally:
            os.chdir(folder)
            shutil.rmtree(place)

    return use


def _parser(module: ModuleType) -> argparse.ArgumentParser:
    """Return the parser that a command's parse() builds."""
    parsers = []

    def keep(parser: argparse.ArgumentParser, *_: object) -> None:
        parsers.append(parser)
        raise SystemExit

    with mock.patch.object(argparse.ArgumentParser, "parse_args", keep):
        try:
            module.parse()
        except SystemExit:
            return parsers[0]


def _lines(module: ModuleType, usual: list[str]) -> st.SearchStrategy[bytes]:
    """Return command lines as JSON lists of words."""
    actions = [a for a in _parser(module)._actions if a.option_strings]
    flag = st.sampled_from(actions).flatmap(_words)
    odd = st.sampled_from([*TEXTS, "--unknown", "-h", "--s", "@x"]).map(lambda text: [text])
    flags = st.lists(flag | flag | flag | odd, max_size=5)
    start = st.sampled_from([usual, usual, usual, []])
    lines = st.tuples(start, flags).map(lambda x: [*x[0], "--backend", "numpy", *chain(*x[1])])
    return lines.map(lambda words: json.dumps(words).encode())


def _words(action: argparse.Action) -> st.SearchStrategy[list[str]]:
    name = action.option_strings[-1]
    if action.nargs == 0:
        return st.just([name])
    if action.choices is not None:
        values = st.sampled_from([*map(str, action.choices), "x", ""])
    elif action.type is Path:
        values = st.sampled_from(PATHS)
    elif action.type is float:
        values = st.sampled_from(NUMBERS) | st.floats().map(str)
    elif action.type is not None:
        values = st.sampled_from(INTEGERS) | st.integers(1, 50).map(str)
    else:
        values = st.sampled_from(TEXTS)
    return values.map(lambda value: [name, value]) | values.map(lambda value: [f"{name}={value}"])

"""The program minddpm: its commands, the help of each, and the commands that it suggests."""

import re
import subprocess
import sys

import pytest
from commands import EXAMPLES, IN_THE_PACKAGE, NUMPY, QUICK, refused

import minddpm
from minddpm import __main__ as start
from minddpm.commands import program
from minddpm.commands.parser import CommandParser


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Return run("sample", "--model", ...) -> (exit code, stdout, stderr), run in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(program, "_minddpm", [])

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["/bin/minddpm", *map(str, words)])
        try:
            code = start.main()
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return call


def test_the_help_lists_the_commands_without_importing_them():
    code = """
import sys
from minddpm import __main__ as start
sys.argv[1:] = ["--help"]
try:
    start.main()
finally:
    modules = [module for module, _ in start.COMMANDS.values()]
    print([name for name in ("numba", *modules) if name in sys.modules])
"""
    stdout = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert stdout.endswith("\n[]\n")
    for name, (_, text) in start.COMMANDS.items():
        assert re.search(rf"^  {name} +{text}$", stdout, re.M)


def test_wrong_words_are_refused_with_one_sentence(run):
    refused(run(), "COMMAND")
    refused(run("paint"), "'paint'", "'inpaint'")
    refused(run("sample"), "--model")
    refused(run("sample", "--model", "nowhere"), "nowhere")
    refused(run("sample", "--steps", "many"), "--steps", "'many'")
    assert run("--version") == (0, f"minddpm {minddpm.__version__}\n", "")


@pytest.mark.parametrize("name", start.COMMANDS)
def test_the_help_of_a_command_fits_on_one_screen(run, name):
    """50 lines of 100 columns."""
    code, stdout, _ = run(name, "--help")
    assert code == 0
    assert stdout.startswith(f"usage: minddpm {name} [")
    assert len(stdout.splitlines()) <= 50
    assert max(map(len, stdout.splitlines())) <= 100


@pytest.mark.parametrize("name", IN_THE_PACKAGE.values())
def test_the_help_names_every_option_and_help_all_describes_it(run, monkeypatch, name):
    parsers = []
    keep = CommandParser.print_help

    def print_help(parser, file=None):
        parsers.append(parser)
        keep(parser, file)

    monkeypatch.setattr(CommandParser, "print_help", print_help)
    everything, short = run(name, "--help-all")[1], run(name, "--help")[1]
    options = [action.option_strings[-1] for action in parsers[0]._actions]
    assert len(options) >= 5
    for option in options:
        if option.startswith("--help"):
            continue
        assert re.search(rf"{option}\b(?!-)", short), option
        assert re.search(rf"^  {option} .*\S|^  {option}$", everything, re.M), option
    if "--backend" in short:  # only commands that compute
        rare = short[short.index("rarely used") :]
        assert "--precision" in rare
        assert "float32" not in rare
        assert "float32" in everything


def test_a_command_suggests_others_by_the_words_that_started_it(run, digits, tmp_path):
    code, stdout, _ = run("train", "--data-dir", digits, "--out", "run", *QUICK)
    assert code == 0
    assert stdout.endswith("more samples: /bin/minddpm sample --model run\n")
    model = ["--model", "run", "--count", 2, "--sampler", "ddim", "--steps", 2]
    assert run("sample", *model, *NUMPY)[0] == 0
    assert (tmp_path / "samples.png").is_file()


def test_words_that_start_a_command(monkeypatch):
    monkeypatch.setattr(program, "_minddpm", [])
    monkeypatch.setattr(sys, "argv", ["examples/train_mnist.py", "--steps", "2"])
    assert program.words() == [sys.executable, "examples/train_mnist.py"]
    assert program.words_of("sample") == [sys.executable, "examples/sample.py"]
    assert (program.name(), program.name("other")) == ("train_mnist.py", "other")
    monkeypatch.setattr(sys, "argv", ["site-packages/minddpm/__main__.py", "train", "--steps", "2"])
    program.enter("train")
    assert sys.argv[1:] == ["--steps", "2"]
    assert program.words() == [sys.executable, "-m", "minddpm", "train"]
    assert program.words_of("sample") == [sys.executable, "-m", "minddpm", "sample"]
    assert program.name("other") == "minddpm train"


@pytest.mark.parametrize("name", IN_THE_PACKAGE)
def test_an_example_is_the_command(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert f"`minddpm {IN_THE_PACKAGE[name]}`" in text
    assert f"python examples/{name}.py" in text
    assert f"from minddpm.commands.{IN_THE_PACKAGE[name]} import main\n" in text

"""Completion by the shell: which words minddpm writes for a line typed so far."""

import os
import subprocess
import sys

import pytest

from minddpm.__main__ import COMMANDS

pytest.importorskip("argcomplete")


@pytest.fixture
def complete(tmp_path):
    """Return complete(line) -> the words that may follow, as the shell's function asks for them."""

    def call(line):
        words = tmp_path / "words"
        asked = {
            "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_TYPE": "9",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(words),
            "COMP_LINE": line, "COMP_POINT": str(len(line)),
        }  # fmt: skip
        program = [sys.executable, "-m", "minddpm"]
        done = subprocess.run(program, env={**os.environ, **asked}, capture_output=True)
        assert done.returncode == 0, done.stderr
        return [word.strip() for word in words.read_text().split("\n")]

    return call


def test_commands_options_and_values_are_completed(complete):
    assert {*COMMANDS, "--help", "--version"} <= set(complete("minddpm "))
    assert complete("minddpm in") == ["inpaint", "interpolate"]
    assert complete("minddpm train --sch") == ["--schedule"]
    assert complete("minddpm train --weight-d") == ["--weight-decay"]  # one of the rarely used
    assert complete("minddpm train --schedule ") == [
        "linear", "cosine", "quadratic", "log-snr"
    ]  # fmt: skip
    assert complete("minddpm sample --model run --sampler dpm") == [
        "dpm_solver", "dpm_solver_2s", "dpm_solver_sde"
    ]  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_runs_when_its_options_are_completed(complete, name):
    assert {"--backend", "--json", "--private"} & set(complete(f"minddpm {name} --"))

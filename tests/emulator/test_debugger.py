"""Repeats the gdb session of docs/debugging.md: gdb must print what the document shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "debugging.md"
pytestmark = pytest.mark.skipif(
    shutil.which("gdb") is None or shutil.which("g++") is None, reason="needs gdb and g++"
)
# Irrelevant lines: Python's threads, gdb's messages about files.
NOISE = re.compile(
    r"\[(New Thread|Thread|Detaching)|Using host libthread_db|MINDDPM_CUDA=|warning:"
)


def blocks(language: str) -> list[str]:
    """Return the document's code blocks in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), flags=re.S | re.M)


def run_session(commands: list[str], script: Path) -> str:
    """Run gdb with these commands, and return its output without addresses and folders."""
    lines = ["set pagination off", "set width 0"]
    for command in commands:
        lines += [f"echo (gdb) {command}\\n", command]
    arguments = [word for line in lines for word in ("-ex", line)]
    done = subprocess.run(
        ["gdb", "-q", "-nx", "-iex", "set auto-load no", "-batch", *arguments, "--args",
         sys.executable, script],
        capture_output=True, text=True, timeout=300, env={**os.environ, "MINDDPM_CUDA": "emulate"},
    )  # fmt: skip
    output = [line for line in done.stdout.splitlines() if line.strip() and not NOISE.match(line)]
    text = "\n".join(output)
    text = re.sub(r"(?<=at )/\S+/|(?<=file )/\S+/", "", text)  # folders of the sources
    return re.sub(r"0x[0-9a-f]+", "0x...", text) + "\n"


def essence(transcript: str) -> list[str]:
    """Return commands, values and source lines; other text differs between versions of gdb."""
    return re.findall(r"^(?:\(gdb\) |\$\d+ = |\d+\t).*", transcript, flags=re.M)


def test_the_transcript(tmp_path):
    (script,), (transcript,) = blocks("python"), blocks("text")
    (tmp_path / "normalise.py").write_text(script)
    commands = re.findall(r"^\(gdb\) (.*)$", transcript, flags=re.M)
    assert len(commands) > 5
    assert essence(run_session(commands, tmp_path / "normalise.py")) == essence(transcript)

"""docs/debugging.md shows a session with gdb: here it is held again, and must go the same way."""

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
# Comes between, and is of no interest: threads of Python, what gdb says about files.
NOISE = re.compile(
    r"\[(New Thread|Thread|Detaching)|Using host libthread_db|MINDDPM_CUDA=|warning:"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), flags=re.S | re.M)


def held(commands: list[str], script: Path) -> str:
    """The session of these commands, as one sees it on the screen, without what differs."""
    said = ["set pagination off", "set width 0"]
    for command in commands:
        said += [f"echo (gdb) {command}\\n", command]
    words = [word for line in said for word in ("-ex", line)]
    done = subprocess.run(
        ["gdb", "-q", "-nx", "-iex", "set auto-load no", "-batch", *words, "--args",
         sys.executable, script],
        capture_output=True, text=True, timeout=300, env={**os.environ, "MINDDPM_CUDA": "emulate"},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.strip() and not NOISE.match(line)]
    text = "\n".join(lines)
    text = re.sub(r"(?<=at )/\S+/|(?<=file )/\S+/", "", text)  # where the sources lie
    return re.sub(r"0x[0-9a-f]+", "0x...", text) + "\n"


def essence(transcript: str) -> list[str]:
    """Commands, values, and lines of the source: other words differ from gdb to gdb."""
    return re.findall(r"^(?:\(gdb\) |\$\d+ = |\d+\t).*", transcript, flags=re.M)


def test_the_transcript(tmp_path):
    (script,), (transcript,) = blocks("python"), blocks("text")
    (tmp_path / "normalise.py").write_text(script)
    commands = re.findall(r"^\(gdb\) (.*)$", transcript, flags=re.M)
    assert len(commands) > 5
    assert essence(held(commands, tmp_path / "normalise.py")) == essence(transcript)

"""Progress bars: a line for each state in a log file, one line that renews itself elsewhere."""

import io
import os
import sys
from contextlib import suppress

import pytest

from minddpm.progress_bar import tqdm


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 0.0

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock.time)
    return clock


def steps(clock, seconds, count=600):
    """Run a bar of `count` steps of so many seconds each."""
    with tqdm(total=count, unit="step", ncols=80, nrows=20) as bar:
        for i in range(count):
            clock.now += seconds
            bar.update()
            bar.set_postfix_str(f"loss {i}", refresh=False)


def test_a_log_file_gets_a_line_a_minute(clock, tmp_path, monkeypatch):
    with open(tmp_path / "log", "w+") as log:
        monkeypatch.setattr(sys, "stderr", log)
        steps(clock, seconds=0.5)  # five minutes
    lines = (tmp_path / "log").read_text().split("\n")
    assert lines.pop() == ""
    assert 5 <= len(lines) <= 7  # the first state, five minutes, the last state
    assert all("step" in line and "\r" not in line for line in lines)
    assert lines[0].startswith("0%") or lines[0].startswith("  0%")
    assert "600/600" in lines[-1]
    assert "loss" in lines[2]


def test_a_short_bar_has_its_first_and_last_line(clock, tmp_path, monkeypatch):
    with open(tmp_path / "log", "w+") as log:
        monkeypatch.setattr(sys, "stderr", log)
        steps(clock, seconds=0.01)
    assert len((tmp_path / "log").read_text().splitlines()) == 2


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo terminal")
def test_a_terminal_gets_one_line_that_renews_itself(clock, monkeypatch):
    ours, theirs = os.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        steps(clock, seconds=0.5, count=20)
    text = ""
    # The kernel hands over the text in pieces; an error says that all is read, and nobody writes.
    with suppress(OSError):
        while piece := os.read(ours, 1 << 16).decode():
            text += piece
    os.close(ours)
    assert text.count("\r") > 10
    assert text.count("\n") == 1


def test_a_notebook_gets_the_usual_bar(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", notebook := io.StringIO())  # no terminal, and no file
    steps(clock, seconds=0.5, count=20)
    assert notebook.getvalue().count("\r") > 10

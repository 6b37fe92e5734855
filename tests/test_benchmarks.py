"""What the benchmarks rest on: a wrong result is never timed, and a table lands in its place."""

import numpy as np
import pytest

from measure import WrongResultError, interleave, ratio, verify
from minddpm.errors import InputError
from tables import markdown, replace, write

TEXT = "before\n<!-- benchmark:unet -->\nold\n<!-- /benchmark -->\nafter\n"


@pytest.mark.parametrize("wrong", [[1, 2, np.nan], [1, 2, 3.1], [1, 2], [1, 2, np.inf]])
def test_a_wrong_result_is_refused(wrong):
    right = np.array([1.0, 2.0, 3.0])
    verify((right, (right,)), (right, right))
    with pytest.raises(WrongResultError):
        verify((right, (np.array(wrong, float),)), (right, right))


def test_contestants_take_turns():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = interleave(contestants, rounds=3, shortest=0)
    assert [len(s) for s in seconds.values()] == [3, 3]
    assert calls[-6:] == ["a", "b"] * 3
    assert ratio({"slow": [2, 9, 4], "fast": [1, 3, 4]}, "slow", "fast") == 2


def test_a_table_goes_between_its_markers():
    table = markdown(["what", "ms"], [["forward", "1.0"]])
    assert table == "| what | ms |\n| --- | ---: |\n| forward | 1.0 |"
    new = replace(TEXT, "unet", table)
    assert new == TEXT.replace("old", table)
    assert replace(new, "unet", "old") == TEXT


@pytest.mark.parametrize("text", ["", TEXT.replace("unet", "other"), TEXT + TEXT])
def test_markers_that_are_not_there_once_are_refused(text, tmp_path):
    (path := tmp_path / "README.md").write_text(text)
    with pytest.raises(InputError, match=r"markers of table 'unet' stand [02] times"):
        write(path, {"unet": "new"})
    assert path.read_text() == text

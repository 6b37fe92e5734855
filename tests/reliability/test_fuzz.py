"""A short slice of the campaign, with a fixed seed; and that a finding would be reported."""

import subprocess
import sys
from pathlib import Path

import pytest
from attempt import RESULT, SENTENCE, outcome

from minddpm.errors import InputError

CAMPAIGN = Path(__file__).parents[1] / "campaign.py"


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")
def test_a_slice_of_the_campaign_has_no_findings():
    words = [sys.executable, CAMPAIGN, "--count", "1500", "--seed", "0"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.rstrip().endswith("no findings")


def fails(error):
    def use(data, folder):
        raise error

    return use


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError("a is wrong: give b."), SENTENCE),
        (InputError("a is wrong"), "not one sentence"),
        (KeyError("a"), "KeyError in test_fuzz.py"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_only_a_sentence_is_an_allowed_failure(tmp_path, error, expected):
    assert outcome(fails(error), b"", tmp_path).startswith(expected)
    assert outcome(lambda data, folder: None, b"", tmp_path) == RESULT

"""Shared by the tests of the commands in examples/."""

import importlib.util
import re
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
NUMPY = ["--backend", "numpy"]
QUICK = ["--steps", "2", "--batch-size", "2", "--timesteps", "40", "--sample-steps", "2"]
QUICK += ["--samples", "4", *NUMPY]


def load(name):
    """Import the module examples/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def snapshot(folder):
    """Return {path: bytes} of every file under a folder."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(result, *words):
    """Check for exit code 2 and one sentence on stderr with these words, no traceback."""
    code, _, stderr = result
    assert code == 2, stderr
    sentence = stderr.strip().splitlines()[-1]
    assert re.match(r"(\w+\.py: )?error: ", sentence)
    assert "Traceback" not in stderr
    for word in words:
        assert str(word) in sentence

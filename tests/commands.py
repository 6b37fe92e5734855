"""Shared by the tests of the commands."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
# The examples whose code is a command of the package.
IN_THE_PACKAGE = {
    "train_mnist": "train", "sample": "sample", "evaluate": "evaluate", "compare_models": "compare",
    "distill": "distill", "inpaint": "inpaint", "interpolate": "interpolate",
    "demo": "demo", "share": "share",
}  # fmt: skip
NUMPY = ["--backend", "numpy"]
QUICK = ["--steps", "2", "--batch-size", "2", "--timesteps", "40", "--sample-steps", "2"]
QUICK += ["--samples", "4", *NUMPY, "--sample-every", "0", "--unconditional"]


def load(name):
    """Import the code of examples/<name>.py, as a module that no one else has."""
    file = EXAMPLES / f"{name}.py"
    if name in IN_THE_PACKAGE:
        file = ROOT / "minddpm" / "commands" / f"{IN_THE_PACKAGE[name]}.py"
    spec = importlib.util.spec_from_file_location(name, file)
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
    assert re.match(r"((\w+\.py|minddpm( [\w-]+)?): )?error: ", sentence)
    assert "Traceback" not in stderr
    for word in words:
        assert str(word) in sentence

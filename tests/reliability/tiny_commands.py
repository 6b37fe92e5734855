"""The commands of examples/ in this process: tiny models, no work after their checks."""

import contextlib
import io
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from attempt import Reached
from builders import TINIEST, tiny_gan, tiny_vae, write_digits
from commands import NUMPY, load

import minddpm
from minddpm.baselines.classifier.model import Classifier
from minddpm.baselines.gan.training import GENERATOR_FILE
from minddpm.baselines.model_file import save_model
from minddpm.baselines.vae.training import VAE_FILE
from minddpm.commands import cli
from minddpm.errors import InputError
from minddpm.evaluation.metrics.judge import save_classifier
from minddpm.training.loop import Loop

COMMANDS = ("sample", "evaluate", "inpaint", "interpolate", "experiments", "compare_models")
TRAININGS = ("train_mnist", "train_vae", "train_gan", "train_classifier")
# The first call of a command that takes longer than a few milliseconds.
WORK = (
    "seconds_per_run", "Reference", "bits_per_dim", "sample_baseline", "draw_schedules", "compare"
)  # fmt: skip
FEW = (
    "--steps", "2", "--batch-size", "2", "--timesteps", "40", "--sample-steps", "2",
    "--samples", "4", "--sample-every", "0",
)  # fmt: skip


class ExitError(Exception):
    """A command ended in another way than with 0, or with 2 and a sentence."""


def load_commands() -> dict[str, ModuleType]:
    """Return the modules of all commands, with small networks."""
    modules = {name: load(name) for name in (*COMMANDS, *TRAININGS)}
    tiny = {**TINIEST, "sample_size": 28}
    modules["train_mnist"].MODELS = {
        "one-block": tiny,
        "small": tiny,
        "paper": {**tiny, "in_channels": 3},
    }
    return modules


def stop_before_work(modules: dict[str, ModuleType]) -> None:
    """Let every command end as Reached where its work would begin."""

    def reached(*_: object, **__: object) -> None:
        raise Reached

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    for module in modules.values():
        for name in WORK:
            if hasattr(module, name):
                setattr(module, name, reached)
    Loop.seconds_per_step = lambda self: (0.0, 0.0)
    Loop.train = reached
    urllib.request.urlopen = no_network


def call(module: ModuleType, words: Sequence[str]) -> None:
    """Run a command. Raises InputError with its sentence if it exits with 2, as documented."""
    sys.argv = [module.__file__, *words]
    stderr, code = io.StringIO(), None
    try:
        with contextlib.redirect_stderr(stderr):
            code = cli.run(module.main)
    except SystemExit as stop:
        code = stop.code
    if code == 0:
        return
    text = stderr.getvalue().strip()
    if code == 2 and f"\n{Path(module.__file__).name}: error: " in text:
        # argparse's sentences have no period, and quote a word as it is.
        raise InputError("argparse refused it.")
    last = text.rpartition("\n")[2]
    if code != 2 or not last.startswith("error: "):
        raise ExitError(f"exit code {code}, {last[:200]!r}")
    raise InputError(last.removeprefix("error: "))


def write_fixtures(folder: Path, modules: dict[str, ModuleType]) -> None:
    """Write into a folder what the targets read: digits, a run, baselines, a judge."""
    (folder / "digits").mkdir()
    write_digits(folder / "digits")
    call(
        modules["train_mnist"],
        ["--data-dir", str(folder / "digits"), "--out", str(folder / "run"), *FEW, *NUMPY],
    )
    save_model(tiny_vae(), folder / "vae" / VAE_FILE)
    save_model(tiny_gan()[0], folder / "gan" / GENERATOR_FILE)
    minddpm.manual_seed(0)
    judge = Classifier(widths=(2, 4), groups=2)
    save_classifier(judge, folder / "judge.safetensors", 0.5, "30 digits")

"""The options of a training run: the defaults, the user's flags, and those stored in run.json."""

import argparse
from typing import Any

from minddpm.commands import model_options
from minddpm.errors import InputError
from minddpm.training.run_directory import RUN, RunDirectory

# Options of every training command, in addition to those of its loop.
MACHINE: dict[str, Any] = {"backend": "auto", "threads": None, "precision": "float32"}
# Options with default None, and their types.
OPTIONAL: dict[str, tuple[type, ...]] = {
    "threads": (int,), "data": (str,), "image_folder": (str,), "image_size": (int, str),
    "channels": (int,), "teacher": (str,), "teacher_steps": (int,), "sampling_steps": (int,),
    **model_options.TYPES,
}  # fmt: skip
# Options that may change when a run is resumed. Those in MACHINE change only the rounding; the
# others do not affect the steps already done, as check_cooldown verifies.
MAY_CHANGE = ("steps", "cooldown", "log_every", "checkpoint_every", "accumulate", *MACHINE)
SWITCHES_OFF = {"class_conditional": "unconditional"}  # option -> flag that makes it False
MAY_MOVE = ("data", "image_folder", "teacher")  # their checksums are in run.json


def choose_options(
    args: argparse.Namespace,
    run: RunDirectory,
    defaults: dict[str, Any],
    choices: dict[str, Any],
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the options of the run: the defaults or, if resuming, those in run.json.

    Flags given by the user override them. choices: option -> allowed values, if restricted. before:
    the values of options that run.json may lack, if not the defaults. Raises InputError for a flag
    that contradicts the resumed run.
    """
    given = {name: value for name in defaults if (value := getattr(args, name)) is not None}
    if not args.resume:
        return {**defaults, **given}
    stored = stored_options(run, before or defaults, choices)
    for name, value in given.items():
        moved = name in MAY_MOVE and stored[name] is not None
        if name not in MAY_CHANGE and not moved and value != stored[name]:
            flag = name if value is not False else SWITCHES_OFF[name]
            raise InputError(
                f"the run in {run.path} has {name}={stored[name]}, not {value}: leave out "
                f"--{flag.replace('_', '-')} to resume it, or start a new run with another --out."
            )
    # The number of threads is that of the machine and of the ranks on it, not of the run.
    return {**stored, "threads": None, **given}


def stored_options(
    run: RunDirectory, defaults: dict[str, Any], choices: dict[str, Any]
) -> dict[str, Any]:
    """Return the options in run.json; an option that it lacks has its default.

    choices: as in choose_options. Raises InputError for a value of a wrong type or outside choices.
    """
    stored = {**defaults, **run.read_info()[0]}
    for name, default in defaults.items():
        value = stored[name]
        if not _same_type(name, value, default) or value not in choices.get(name, [value]):
            raise InputError(f"{run.path / RUN} has {name}={value!r}: restore the original value.")
    return stored


def _same_type(name: str, value: Any, default: Any) -> bool:
    """Return whether a value from run.json has the type of the default."""
    if default is None:
        return value is None or type(value) in OPTIONAL[name]
    return type(value) in ((int, float) if isinstance(default, float) else (type(default),))

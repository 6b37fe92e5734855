"""What the training commands share: which run, which options, which data, how to go on."""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from minddpm import backend
from minddpm.commands import cli
from minddpm.data import ImageDataset
from minddpm.errors import InputError
from minddpm.training.loop import Loop
from minddpm.training.options import LoopOptions
from minddpm.training.run_directory import RUN, RunDirectory

Options = TypeVar("Options", bound=LoopOptions)

# What every training has beside its own options.
MACHINE: dict[str, Any] = {"backend": "auto", "threads": None, "precision": "float32"}
OPTIONAL = {"threads": int, "image_folder": str}  # what is None by default, and its type else
LOOP_HELP = {
    "steps": "training steps in all",
    "batch_size": "images in a step",
    "seed": "decides the initial weights, batches and noise",
    "lr": "learning rate of Adam",
    "warmup_steps": "steps of linear warm-up of the learning rate",
    "cooldown": "share of the steps, the last ones, in which the learning rate falls to zero",
    "clip_norm": "longest gradient",
    "weight_decay": "decoupled weight decay (AdamW)",
    "ema_decay": "of the averaged weights",
    "log_every": "steps for one row of loss.csv",
    "checkpoint_every": "steps between checkpoints",
}
# Another backend, precision or number of threads rounds differently; the others change nothing of
# the steps that are done (check_cooldown sees to that).
MAY_CHANGE = ("steps", "cooldown", "log_every", "checkpoint_every", *MACHINE)


def add_run(parser: argparse.ArgumentParser, default_out: Path) -> None:
    """The flags of every training command but its own options."""
    cli.add_machine(parser)
    parser.add_argument("--data-dir", type=Path, help="folder with the four IDX files of MNIST")
    parser.add_argument("--out", type=Path, help=f"run directory (default: a new {default_out})")
    parser.add_argument("--resume", action="store_true", help="go on from the run in --out")


def choose_run(args: argparse.Namespace, default_out: Path) -> RunDirectory:
    """--out; without it the newest run to resume, or a name that is free for a new one."""
    if args.out is not None:
        return RunDirectory(args.out)
    if not args.resume:
        return RunDirectory(cli.free_name(default_out))
    runs = default_out.parent.glob(f"{default_out.name}*/{RUN}")
    newest = max(runs, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise InputError(f"there is no run in {default_out.parent}/ to resume: name it with --out.")
    return RunDirectory(newest.parent)


def choose_options(
    args: argparse.Namespace,
    run: RunDirectory,
    defaults: dict[str, Any],
    choices: dict[str, Any],
) -> dict[str, Any]:
    """The defaults, or the resumed run's options, with the given flags on top.

    Raises InputError for a flag that would make another run of the one that is resumed.
    """
    given = {name: value for name in defaults if (value := getattr(args, name)) is not None}
    if not args.resume:
        return {**defaults, **given}
    kept = kept_options(run, defaults, choices)
    for name, value in given.items():
        if name not in MAY_CHANGE and value != kept[name]:
            raise InputError(
                f"the run in {run.path} has {name}={kept[name]}, not {value}: leave "
                f"--{name.replace('_', '-')} out to go on, or begin a new run with another --out."
            )
    return {**kept, **given}


def kept_options(
    run: RunDirectory, defaults: dict[str, Any], choices: dict[str, Any]
) -> dict[str, Any]:
    """What run.json says, the defaults where it is silent. Raises InputError if it makes no sense.

    choices: what an option may be, where that is a list.
    """
    kept = {**defaults, **run.read_info()[0]}
    for name, right in defaults.items():
        if not _same_kind(name, kept[name], right) or kept[name] not in choices.get(
            name, [kept[name]]
        ):
            raise InputError(
                f"{run.path / RUN} has {name}={kept[name]!r}: put back what was there."
            )
    return kept


def _same_kind(name: str, value: Any, right: Any) -> bool:
    """Whether a value from run.json has the type of the default."""
    if right is None:
        return value is None or type(value) is OPTIONAL[name]
    return type(value) in ((int, float) if isinstance(right, float) else (type(right),))


def start(options: dict[str, Any]) -> None:
    """Choose backend, threads and precision, and note in the options what they became."""
    options["backend"] = backend.set_backend(options["backend"]).name
    options["threads"] = backend.set_threads(options["threads"])
    backend.set_precision(options["precision"])


def describe_backend(options: dict[str, Any]) -> str:
    """The backend, for the line that says what is going to happen."""
    threads = f" in {options['threads']} threads" if options["threads"] else ""
    precision = "" if options["precision"] == "float32" else f", {options['precision']}"
    return f"backend {options['backend']}{threads}{precision}"


def check_same_data(run: RunDirectory, dataset: ImageDataset) -> None:
    """Raise InputError if a resumed run would go on with other pictures."""
    before, now = run.read_info()[1], dataset.identity()
    if any(before.get(key) != now[key] for key in ("images", "checksum")):
        raise InputError(
            f"the run in {run.path} was trained on {before.get('source')}, and this is "
            f"{now['source']}: name the same data, or begin a new run with another --out."
        )


def check_cooldown(loop: Loop) -> None:
    """Raise InputError if the learning rate of a resumed run would have been another one before.

    A run that ends elsewhere cools down elsewhere: neither plan may have begun to.
    """
    kind, now = type(loop.options), loop.options
    before = training_options(kind, {**dataclasses.asdict(kind()), **loop.run.read_info()[0]})
    same = (before.steps, before.cooldown) == (now.steps, now.cooldown)
    if not same and loop.step > min(before.cooldown_begins, now.cooldown_begins):
        raise InputError(
            f"{loop.run.path} is at step {loop.step} of a run with steps={before.steps} and "
            f"cooldown={before.cooldown}, whose learning rate would have been another one with "
            f"steps={now.steps} and cooldown={now.cooldown}: leave --steps, --epochs and "
            "--cooldown out, or begin a new run with another --out."
        )


def go_on(run: RunDirectory) -> str:
    """The command that continues this run."""
    words = [sys.executable, *sys.argv]
    if "--out" not in words:
        words += ["--out", str(run.path)]
    if "--resume" not in words:
        words.append("--resume")
    return f"go on with:\n  {shlex.join(words)}"


def interruptible(run: RunDirectory, body: Callable[[], int]) -> int:
    """The exit code of body(); where Ctrl-C ends it, how to go on."""
    try:
        return body()
    except KeyboardInterrupt:
        if not (run.path / RUN).exists():
            raise
        print(f"\ninterrupted; {go_on(run)}")
        return cli.INTERRUPTED


def train(loop: Loop) -> bool:
    """Train; False, and a line that says how to go on, if Ctrl-C stopped it."""
    if done := loop.train():
        return done
    print(f"\nstopped at step {loop.step}, saved; {go_on(loop.run)}")
    return False


def add_options(parser: argparse.ArgumentParser, defaults: LoopOptions) -> Any:
    """A flag for each field of a training's options, None where it is not given: their group."""
    group = parser.add_argument_group("the run", "kept in run.json; --resume takes them from there")
    for field in dataclasses.fields(defaults):
        default = getattr(defaults, field.name)
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(default),
            help=f"{field.metadata.get('help', LOOP_HELP.get(field.name))} (default: {default})",
        )
    return group


def training_options(kind: type[Options], options: dict[str, Any]) -> Options:
    """The training's own options among all that a command has."""
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in options.items() if name in fields})


def open_run(args: argparse.Namespace, loop: Loop) -> None:
    """Make the directory of the loop's new run, or go on where an old one stood.

    Raises InputError if that cannot be; nothing but an empty directory is written.
    """
    run = loop.run
    if not args.resume:
        run.check_new(loop.bytes_needed())
        return
    check_same_data(run, loop.dataset)
    run.check_writable(loop.bytes_needed())
    if loop.resume() > loop.options.steps:
        raise InputError(f"{run.path} is at step {loop.step} already: choose --steps above it.")
    check_cooldown(loop)
    print(f"resuming {run.path} at step {loop.step}")


def begin(args: argparse.Namespace, loop: Loop, options: dict[str, Any]) -> None:
    """Open the run, say what it will cost, and note its options."""
    open_run(args, loop)
    announce(loop, options)
    loop.run.write_info(options, loop.dataset.identity())


def announce(loop: Loop, options: dict[str, Any], then: str = "", seconds: float = 0.0) -> None:
    """Say what is trained on what, and what it will cost, measured on two gradients.

    then, seconds: what comes after the training, and how long that takes.
    """
    dataset = loop.dataset
    _, H, W, C = dataset.images.shape
    print(
        f"{len(dataset):,} images {H} x {W} x {C} ({dataset.source}); "
        f"{loop.parameters():,} parameters; {describe_backend(options)}",
        flush=True,
    )
    first, each = loop.seconds_per_step()
    minutes = ((loop.options.steps - loop.step) * each + seconds) / 60
    print(
        f"{loop.options.steps:,} steps of {loop.options.batch_size} images{then}: "
        f"about {minutes:.1f} min ({each:.2f} s a step, the first {first:.1f} s) and "
        f"{cli.peak_memory()}",
        flush=True,
    )

"""Functions that the training commands share: choose, start and resume a run; its options."""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from minddpm import backend, parallel
from minddpm.commands import cli, program
from minddpm.commands.classes import check_same_classes
from minddpm.commands.parser import CommandParser
from minddpm.commands.run_options import choose_options
from minddpm.commands.watching import watchers
from minddpm.data import ImageDataset
from minddpm.data.fit import Size
from minddpm.data.named import GREY_28, NAMES
from minddpm.data.sources import load_images
from minddpm.errors import InputError
from minddpm.training.loop import Loop
from minddpm.training.options import LoopOptions
from minddpm.training.run_directory import BEFORE_COOLDOWN, RUN, STATE, RunDirectory

Options = TypeVar("Options", bound=LoopOptions)

LOOP_HELP = {
    "steps": "number of training steps",
    "batch_size": "images per step",
    "seed": "seed of the initial weights, the batches and the noise",
    "lr": "learning rate of Adam",
    "warmup_steps": "steps of the learning rate's linear warm-up",
    "cooldown": "fraction of the steps, at the end, in which the learning rate falls to zero",
    "clip_norm": "largest norm of the gradient",
    "weight_decay": "decoupled weight decay (AdamW)",
    "ema_decay": "decay of the averaged weights",
    "log_every": "steps per row of loss.csv",
    "checkpoint_every": "steps between checkpoints",
}
RARE = (
    "warmup_steps", "cooldown", "clip_norm", "weight_decay", "ema_decay", "log_every",
    "checkpoint_every",
)  # fmt: skip


def add_run(parser: CommandParser, files: Any, default_out: Path) -> None:
    """Add the flags that every training command has in addition to its options.

    files: the group of those that name a file.
    """
    cli.add_machine(parser)
    files.add_argument("--out", type=Path, help=f"run directory (default: a new {default_out})")
    files.add_argument(
        "--resume", action="store_true", help="continue the run in --out, with its own options"
    )
    files.add_argument("--data-dir", type=Path, help="folder with the files of a named data set")
    files.add_argument(
        "--sample-every", type=cli.not_negative, metavar="N",
        help="steps between the samples of index.html (a twentieth of the run; 0: none)",
    )  # fmt: skip
    parser.rare.add_argument(
        "--tensorboard", action="store_true", help="write the numbers for TensorBoard, too"
    )


def add_data(parser: CommandParser, images: Any) -> None:
    """Add the flags --data, to a group, and --image-folder; `parse_data` checks them."""
    images.add_argument(
        "--data",
        help=f"{', '.join(NAMES)}, folder, .zip, .npz (default: mnist)",
    )
    parser.rare.add_argument("--image-folder", help="the same as --data, for a folder")


def add_grey_data(group: Any) -> None:
    """Add the flag --data of the models that are made for grey images of 28 x 28."""
    group.add_argument("--data", choices=GREY_28, help=f"{', '.join(GREY_28)} (default: mnist)")


def parse_data(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the arguments of a command with the flags of `add_data`, only one of them."""
    args = parser.parse_args()
    if args.data is not None and args.image_folder is not None:
        parser.error("--data and --image-folder both name the images: give only one")
    for name in ("data", "image_folder"):
        given = getattr(args, name)
        if given is None or (name == "data" and given in NAMES):
            continue
        if args.data_dir is not None:
            parser.error(
                f"--data-dir is for {', '.join(NAMES)}, --{name.replace('_', '-')} {given} for "
                "other images: give only one"
            )
        setattr(args, name, str(Path(given).resolve()))  # --resume may run elsewhere
    return args


def load_data(
    args: argparse.Namespace, options: dict[str, Any], size: Size | None, channels: int | None
) -> ImageDataset:
    """Return the images of --data or --image-folder; None: the size or the channels they have."""
    name = "data" if options["image_folder"] is None else "image_folder"
    data = options[name] or "mnist"
    if args.resume and data not in NAMES and not Path(data).exists():
        raise InputError(
            f"{data}, with the images of the run, does not exist: give its new place with "
            f"--{name.replace('_', '-')}."
        )
    # Other ranks of a machine find what its first one has downloaded or decoded.
    return parallel.world().first_on_machine(
        lambda: load_images(data, size, channels, args.data_dir)
    )


def choose_run(args: argparse.Namespace, default_out: Path) -> RunDirectory:
    """Return the run in --out; without --out, the newest run if --resume, else a new one."""
    if args.out is not None:
        return RunDirectory(args.out)
    if not args.resume:
        return RunDirectory(cli.free_name(default_out))
    runs = default_out.parent.glob(f"{default_out.name}*/{RUN}")
    newest = max(runs, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise InputError(f"there is no run to resume in {default_out.parent}/: name it with --out.")
    return RunDirectory(newest.parent)


def start(options: dict[str, Any]) -> None:
    """Set backend, threads and precision, and store the values chosen for "auto" in options."""
    machine = cli.set_machine(options["backend"], options["threads"], options["precision"])
    options["backend"], options["threads"] = machine


def describe_backend(options: dict[str, Any]) -> str:
    """Return backend, threads and precision as text, for the message of `announce`."""
    threads = f" in {options['threads']} threads" if options["threads"] else ""
    precision = "" if options["precision"] == "float32" else f", {options['precision']}"
    size = parallel.world().size
    ranks = f", {size} ranks" if size > 1 else ""
    return f"backend {options['backend']}{threads}{precision}{ranks}"


def check_same_data(run: RunDirectory, dataset: ImageDataset, uses_labels: bool = False) -> None:
    """Raise InputError unless the resumed run was trained on this data set.

    Only a run that uses labels needs the same classes.
    """
    before, now = run.read_info()[1], dataset.identity()
    if any(before.get(key) != now[key] for key in ("images", "checksum")):
        raise InputError(
            f"the run in {run.path} was trained on {before.get('source')}, but this is "
            f"{now['source']}: give the same data, or start a new run with another --out."
        )
    if uses_labels:
        check_same_classes(f"the run in {run.path}", before, dataset)


def check_cooldown(loop: Loop) -> None:
    """Go back to the step before the cooldown if the new options move it, as more steps do.

    Raises InputError if they would change the learning rate of the steps before it, too.
    """
    kind, now = type(loop.options), loop.options
    before = training_options(kind, {**dataclasses.asdict(kind()), **loop.run.read_info()[0]})
    same = (before.steps, before.cooldown) == (now.steps, now.cooldown)
    first = min(before.cooldown_begins, now.cooldown_begins)
    if same or loop.step <= first:
        return
    if (loop.run.path / BEFORE_COOLDOWN).is_file():
        loop.resume(BEFORE_COOLDOWN)
    if loop.step > first:
        raise InputError(
            f"{loop.run.path} is at step {loop.step} of a run with steps={before.steps} and "
            f"cooldown={before.cooldown}, and steps={now.steps} with cooldown={now.cooldown} would "
            "change the learning rate of steps already done: leave out --steps, --epochs and "
            "--cooldown, or start a new run with another --out."
        )
    loop.save_state(STATE)  # a kill before the next checkpoint must not bring the cooled one back


def resume_command(run: RunDirectory) -> str:
    """Return text that tells the user the command that continues this run."""
    words = [*program.words(), *sys.argv[1:]]
    if "--out" not in words:
        words += ["--out", str(run.path)]
    if "--resume" not in words:
        words.append("--resume")
    return f"continue with:\n  {shlex.join(words)}"


def run_command(
    args: argparse.Namespace, default_out: Path, defaults: dict[str, Any],
    choices: dict[str, Any], train: Callable[[argparse.Namespace, RunDirectory, dict], int],
    before: dict[str, Any] | None = None,
) -> int:  # fmt: skip
    """Choose the run and its options, call train(args, run, options) and return its exit code.

    defaults, choices, before: as in choose_options.
    """

    def choose() -> tuple[RunDirectory, dict[str, Any]]:
        run = choose_run(args, default_out)
        return run, choose_options(args, run, defaults, choices, before)

    run, options = parallel.world().from_first(choose)
    start(options)
    return interruptible(run, lambda: train(args, run, options))


def interruptible(run: RunDirectory, body: Callable[[], int]) -> int:
    """Call body() and return its exit code; on Ctrl-C, print how to continue the run."""
    try:
        return body()
    except KeyboardInterrupt:
        if not (run.path / RUN).exists():
            raise
        print(f"\ninterrupted; {resume_command(run)}")
        return cli.INTERRUPTED


def train(loop: Loop) -> bool:
    """Train and return True; on Ctrl-C, print how to continue the run and return False."""
    if loop.train():
        return True
    print(f"\nstopped at step {loop.step}, saved; {resume_command(loop.run)}")
    return False


def add_options(parser: CommandParser, training: Any, defaults: LoopOptions) -> None:
    """Add a flag for each field of a training's options to a group, or to the rarely used ones.

    A flag that is not given is None.
    """
    for field in dataclasses.fields(defaults):
        default = getattr(defaults, field.name)
        (parser.rare if field.name in RARE else training).add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(default),
            help=f"{field.metadata.get('help', LOOP_HELP.get(field.name))} (default: {default})",
        )


def training_options(kind: type[Options], options: dict[str, Any]) -> Options:
    """Return an instance of `kind` with those of the options that are its fields."""
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in options.items() if name in fields})


def open_run(args: argparse.Namespace, loop: Loop) -> None:
    """Create the directory of a new run, or resume an existing one from its checkpoint.

    Creates at most an empty directory. Raises InputError if the run cannot start or resume. Rank 0
    does it, and all ranks then have its state.
    """
    loop.world.from_first(lambda: _open_run(args, loop))
    loop.share()


def _open_run(args: argparse.Namespace, loop: Loop) -> None:
    run = loop.run
    loop.watchers = watchers(loop, args.sample_every, args.tensorboard)
    if not args.resume:
        run.check_new(loop.bytes_needed())
        return
    check_same_data(run, loop.dataset, loop.uses_labels)
    run.check_writable(loop.bytes_needed())
    if loop.resume() > loop.options.steps:
        raise InputError(f"{run.path} is already at step {loop.step}: choose --steps above it.")
    check_cooldown(loop)
    if loop.step == 0:
        print(f"{run.path} ended before its first checkpoint: starting at step 0")
    else:
        print(f"resuming {run.path} at step {loop.step}")


def begin(args: argparse.Namespace, loop: Loop, options: dict[str, Any]) -> None:
    """Open the run, print the expected cost, and write its options to run.json."""
    open_run(args, loop)
    backend.compile_ahead(loop.trial)
    announce(loop, options)
    loop.run.write_info(options, loop.dataset.identity())


def announce(loop: Loop, options: dict[str, Any], then: str = "", seconds: float = 0.0) -> None:
    """Print data, model size and expected cost of a training run, after timing trials.

    then, seconds: a description of the work that follows training, and the time it takes.
    """
    dataset = loop.dataset
    _, H, W, C = dataset.images.shape
    print(
        f"{len(dataset):,} images {H} x {W} x {C} ({dataset.source}); "
        f"{loop.parameters():,} parameters; {describe_backend(options)}",
        flush=True,
    )
    if loop.uses_labels:
        print(dataset.describe_classes(), flush=True)
    first, seconds_per_step = loop.seconds_per_step()
    minutes = ((loop.options.steps - loop.step) * seconds_per_step + seconds) / 60
    print(
        f"{loop.options.steps:,} steps of {loop.options.batch_size} images{then}: "
        f"about {minutes:.1f} min ({seconds_per_step:.2f} s a step, the first {first:.1f} s) and "
        f"{cli.peak_memory()}",
        flush=True,
    )

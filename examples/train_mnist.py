"""Train a DDPM on MNIST (or on a folder of pictures) and leave samples, curves and the model.

    python examples/train_mnist.py
    python examples/train_mnist.py --out runs/mnist --resume --steps 4000

The directory that it writes opens in diffusers too: DDPMPipeline.from_pretrained("runs/mnist").
"""

import argparse
import dataclasses
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import minddpm
from minddpm import backend, cli, report
from minddpm.data import ImageDataset, load_folder, load_mnist
from minddpm.diffusion.gaussian import LOSSES, PREDICTIONS, VARIANCES
from minddpm.errors import InputError
from minddpm.generate import seconds_per_run
from minddpm.rundir import RUN, RunDirectory
from minddpm.training import Trainer, TrainingOptions

DEFAULT_OUT = Path("runs/mnist")
MODELS = {"small": minddpm.SMALL, "paper": minddpm.PAPER}

# Options that are part of the run: a resumed run has those of its beginning.
RUN_OPTIONS: dict[str, Any] = {
    "backend": "auto",
    "threads": None,
    "precision": "float32",
    "model": "small",
    "timesteps": 1000,
    "schedule": "linear",
    "prediction": "epsilon",
    "variance": "fixed_small",
    "image_folder": None,
    "image_size": 28,
    **dataclasses.asdict(TrainingOptions()),
}
CHOICES: dict[str, Any] = {
    "precision": list(backend.PRECISIONS),
    "model": list(MODELS),
    "schedule": list(minddpm.schedules.BY_NAME),
    "prediction": PREDICTIONS,
    "variance": VARIANCES,
    "loss": LOSSES,
}
OPTIONAL = {"threads": int, "image_folder": str}  # what is None by default, and its type else
# Another backend, precision or number of threads rounds differently; the others change nothing.
MAY_CHANGE = ("steps", "log_every", "checkpoint_every", "backend", "precision", "threads")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_backend(parser)
    cli.add_threads(parser)
    cli.add_precision(parser)
    parser.add_argument("--data-dir", type=Path, help="folder with the four IDX files of MNIST")
    parser.add_argument("--out", type=Path, help=f"run directory (default: a new {DEFAULT_OUT})")
    parser.add_argument("--resume", action="store_true", help="go on from the run in --out")
    parser.add_argument("--samples", type=cli.positive, default=64, help="in samples.png (64)")
    parser.add_argument(
        "--sample-steps", type=cli.positive, help="steps for samples.png (250, at most T)"
    )
    group = parser.add_argument_group("the run", "kept in run.json; --resume takes them from there")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=cli.positive, help="passes over the data, for --steps")

    def add(name: str, kind: Any, text: str, to: Any = group) -> None:
        to.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            choices=CHOICES.get(name),
            help=f"{text} (default: {RUN_OPTIONS[name]})",
        )

    add("steps", cli.positive, "training steps in all", length)
    add("batch_size", cli.positive, "images in a step")
    add("seed", int, "decides the initial weights, batches and noise")
    add("lr", float, "learning rate of Adam")
    add("warmup_steps", int, "steps of linear warm-up of the learning rate")
    add("clip_norm", float, "longest gradient")
    add("weight_decay", float, "decoupled weight decay (AdamW)")
    add("ema_decay", float, "of the averaged weights, with which samples are made")
    add("model", str, "small: 1.6M parameters; paper: Ho et al.'s CIFAR-10 model, 35.7M")
    add("timesteps", cli.positive, "T, the length of the diffusion process")
    add("schedule", str, "of the noise")
    add("prediction", str, "what the network predicts")
    add("variance", str, "of the reverse step; learned_range goes with --loss hybrid or vlb")
    add("loss", str, "simple; vlb, the bound in bits/dim; hybrid, which adds 0.001 of it")
    for name, text in (
        ("importance-sampling", "draw t by how much its loss varies, for --loss vlb"),
        ("class-conditional", "tell the model the digit, now and then none, for guidance"),
    ):
        group.add_argument(f"--{name}", action="store_true", default=None, help=text)
    add("label_dropout", float, "share of the pictures whose class is left out")
    add("image_folder", Path, "train on the pictures in this folder instead of MNIST")
    add("image_size", cli.positive, "height and width of the pictures of --image-folder")
    add("log_every", cli.positive, "steps for one row of loss.csv")
    add("checkpoint_every", cli.positive, "steps between checkpoints")
    args = parser.parse_args()
    if args.image_folder is not None:
        if args.data_dir is not None:
            parser.error("--data-dir is for MNIST, --image-folder for other pictures: give one")
        args.image_folder = str(args.image_folder.resolve())  # to be found again when resuming
    return args


def choose_run(args: argparse.Namespace) -> RunDirectory:
    """--out; without it the newest run to resume, or a name that is free for a new one."""
    if args.out is not None:
        return RunDirectory(args.out)
    if not args.resume:
        return RunDirectory(cli.free_name(DEFAULT_OUT))
    runs = DEFAULT_OUT.parent.glob(f"{DEFAULT_OUT.name}*/{RUN}")
    newest = max(runs, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise InputError(f"there is no run in {DEFAULT_OUT.parent}/ to resume: name it with --out.")
    return RunDirectory(newest.parent)


def choose_options(args: argparse.Namespace, run: RunDirectory) -> dict[str, Any]:
    """The defaults, or the resumed run's options, with the given flags on top."""
    given = {name: value for name in RUN_OPTIONS if (value := getattr(args, name)) is not None}
    if not args.resume:
        return {**RUN_OPTIONS, **given}
    kept = {**RUN_OPTIONS, **run.read_info()[0]}
    for name, right in RUN_OPTIONS.items():
        if not _same_kind(name, kept[name], right) or kept[name] not in CHOICES.get(
            name, [kept[name]]
        ):
            raise InputError(
                f"{run.path / RUN} has {name}={kept[name]!r}: put back what was there."
            )
    for name, value in given.items():
        if name not in MAY_CHANGE and value != kept[name]:
            raise InputError(
                f"the run in {run.path} has {name}={kept[name]}, not {value}: leave "
                f"--{name.replace('_', '-')} out to go on, or begin a new run with another --out."
            )
    return {**kept, **given}


def _same_kind(name: str, value: Any, right: Any) -> bool:
    """Whether a value from run.json has the type of the default."""
    if right is None:
        return value is None or type(value) is OPTIONAL[name]
    return type(value) in ((int, float) if isinstance(right, float) else (type(right),))


def load_data(args: argparse.Namespace, options: dict[str, Any]) -> ImageDataset:
    if options["image_folder"] is None:
        return load_mnist(args.data_dir)
    channels = MODELS[options["model"]]["in_channels"]
    return load_folder(options["image_folder"], options["image_size"], channels)


def check_same_data(run: RunDirectory, dataset: ImageDataset) -> None:
    """Raise InputError if a resumed run would go on with other pictures."""
    before, now = run.read_info()[1], dataset.identity()
    if any(before.get(key) != now[key] for key in ("images", "checksum")):
        raise InputError(
            f"the run in {run.path} was trained on {before.get('source')}, and this is "
            f"{now['source']}: name the same data, or begin a new run with another --out."
        )


def prepare(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> Trainer:
    """The trainer at the step where it has to begin; nothing but an empty directory is written."""
    dataset = load_data(args, options)
    if args.epochs is not None:
        options["steps"] = -(-args.epochs * len(dataset) // options["batch_size"])
    diffusion = minddpm.GaussianDiffusion(
        minddpm.schedules.BY_NAME[options["schedule"]](options["timesteps"]),
        options["prediction"],
        options["variance"],
    )
    fields = {f.name for f in dataclasses.fields(TrainingOptions)}
    training = TrainingOptions(**{k: v for k, v in options.items() if k in fields})
    minddpm.manual_seed(training.seed)
    _, H, W, C = dataset.images.shape
    config = {**MODELS[options["model"]], "sample_size": H, "in_channels": C, "out_channels": C}
    if options["variance"] == "learned_range":
        config["out_channels"] = 2 * C
    if training.class_conditional and dataset.labels is not None:
        config["num_class_embeds"] = int(dataset.labels.max()) + 2  # and one for none
    unet = minddpm.UNet2D(**config)
    unet.check_image_size(H, W)
    trainer = Trainer(unet, diffusion, dataset, run, training)
    if not args.resume:
        run.check_new(trainer.bytes_needed())
        return trainer
    check_same_data(run, dataset)
    run.check_writable(trainer.bytes_needed())
    if trainer.resume() > training.steps:
        raise InputError(f"{run.path} is at step {trainer.step} already: choose --steps above it.")
    print(f"resuming {run.path} at step {trainer.step}")
    return trainer


def announce(trainer: Trainer, options: dict[str, Any], samples: int, sample_steps: int) -> None:
    """Say what is trained on what, and what it will cost, measured on two gradients."""
    dataset, left = trainer.dataset, trainer.options.steps - trainer.step
    threads = f" in {options['threads']} threads" if options["threads"] else ""
    _, H, W, C = dataset.images.shape
    parameters = sum(p.size for p in trainer.unet.parameters())
    print(
        f"{len(dataset):,} images {H} x {W} x {C} ({dataset.source}); "
        f"{parameters:,} parameters; backend {options['backend']}{threads}"
        f"{'' if options['precision'] == 'float32' else ', ' + options['precision']}",
        flush=True,
    )
    first, each = trainer.seconds_per_step()
    sampling = seconds_per_run(trainer.unet, samples) * sample_steps
    minutes = (left * each + sampling) / 60
    print(
        f"{options['steps']:,} steps of {options['batch_size']} images, then {samples} samples: "
        f"about {minutes:.1f} min ({each:.2f} s a step, the first {first:.1f} s) and "
        f"{cli.peak_memory()}",
        flush=True,
    )


def go_on(run: RunDirectory) -> str:
    """The command that continues this run."""
    words = [sys.executable, *sys.argv]
    if "--out" not in words:
        words += ["--out", str(run.path)]
    if "--resume" not in words:
        words.append("--resume")
    return f"go on with:\n  {shlex.join(words)}"


def train(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> int:
    started = time.perf_counter()
    T = options["timesteps"]
    sample_steps = min(250, T) if args.sample_steps is None else args.sample_steps
    minddpm.schedules.timesteps(T, sample_steps)  # refuses a wrong number before the training
    trainer = prepare(args, run, options)
    announce(trainer, options, args.samples, sample_steps)
    run.write_info(options, trainer.dataset.identity())

    unet, diffusion, seed = trainer.unet, trainer.diffusion, trainer.options.seed
    report.draw_forward(run, diffusion, trainer.dataset, seed)
    if not trainer.train():
        print(f"\nstopped at step {trainer.step}, saved; {go_on(run)}")
        return cli.INTERRUPTED
    report.draw_loss(run)
    with trainer.ema.applied():
        report.draw_samples(run, unet, diffusion, args.samples, "ddpm", sample_steps, seed)
    print(
        f"{(time.perf_counter() - started) / 60:.1f} min, {cli.peak_memory()}. "
        f"In {run.path}: samples.png, denoising.gif, forward.png, loss.png, loss.csv and the model "
        "(averaged weights), which diffusers opens too."
    )
    sample = Path(sys.argv[0]).with_name("sample.py")
    print(f"more digits: {shlex.join([sys.executable, str(sample), '--model', str(run.path)])}")
    return 0


def main() -> int:
    args = parse()
    run = choose_run(args)
    options = choose_options(args, run)
    options["backend"] = minddpm.set_backend(options["backend"]).name
    options["threads"] = backend.set_threads(options["threads"])
    backend.set_precision(options["precision"])
    try:
        return train(args, run, options)
    except KeyboardInterrupt:
        if not (run.path / RUN).exists():
            raise
        print(f"\ninterrupted; {go_on(run)}")
        return cli.INTERRUPTED


if __name__ == "__main__":
    sys.exit(cli.run(main))

"""Train a DDPM on MNIST (or on a folder of pictures) and leave samples, curves and the model.

    python examples/train_mnist.py
    python examples/train_mnist.py --out runs/mnist --resume --steps 4000

The directory that it writes opens in diffusers too: DDPMPipeline.from_pretrained("runs/mnist").
"""

import argparse
import dataclasses
import resource
import sys
import time
from pathlib import Path
from typing import Any

import minddpm
from minddpm import cli, report
from minddpm.backend import active
from minddpm.data import ImageDataset, load_folder, load_mnist
from minddpm.diffusion.gaussian import PREDICTIONS, VARIANCES
from minddpm.errors import InputError
from minddpm.rundir import RUN, RunDirectory
from minddpm.training import Trainer, TrainingOptions

DEFAULT_OUT = Path("runs/mnist")
MODELS = {"small": minddpm.SMALL, "paper": minddpm.PAPER}

# Options that are part of the run: a resumed run has those of its beginning.
RUN_OPTIONS: dict[str, Any] = {
    "model": "small",
    "timesteps": 1000,
    "schedule": "linear",
    "prediction": "epsilon",
    "variance": "fixed_large",
    "image_folder": None,
    "image_size": 28,
    **dataclasses.asdict(TrainingOptions()),
}
MAY_CHANGE = ("steps", "log_every", "checkpoint_every")  # without changing what is learned


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_backend(parser)
    parser.add_argument("--data-dir", type=Path, help="folder with the four IDX files of MNIST")
    parser.add_argument("--out", type=Path, help=f"run directory (default: a new {DEFAULT_OUT})")
    parser.add_argument("--resume", action="store_true", help="go on from the run in --out")
    parser.add_argument(
        "--epochs", type=cli.positive, help="instead of --steps: passes over the data"
    )
    parser.add_argument(
        "--samples", type=cli.positive, default=64, help="digits in samples.png (64)"
    )
    parser.add_argument(
        "--sample-steps", type=cli.positive, default=50, help="DDIM steps for samples.png (50)"
    )
    group = parser.add_argument_group("the run", "kept in run.json; --resume takes them from there")

    def add(name: str, kind: Any, text: str, choices: Any = None) -> None:
        default = RUN_OPTIONS[name]
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            choices=choices,
            help=f"{text} (default: {default})",
        )

    add("steps", cli.positive, "training steps in all")
    add("batch_size", cli.positive, "images in a step")
    add("seed", int, "decides the initial weights, batches and noise")
    add("lr", float, "learning rate of Adam")
    add("warmup_steps", int, "steps of linear warm-up of the learning rate")
    add("clip_norm", float, "longest gradient")
    add("weight_decay", float, "decoupled weight decay (AdamW)")
    add("ema_decay", float, "of the averaged weights, with which samples are made")
    add("model", str, "small: 1.6M parameters; paper: Ho et al.'s CIFAR-10 model", list(MODELS))
    add("timesteps", cli.positive, "T, the length of the diffusion process")
    add("schedule", str, "of the noise", list(minddpm.schedules.BY_NAME))
    add("prediction", str, "what the network predicts", PREDICTIONS)
    add("variance", str, "of the reverse step", VARIANCES)
    add("image_folder", str, "train on the pictures in this folder instead of MNIST")
    add("image_size", cli.positive, "height and width of the pictures of --image-folder")
    add("log_every", cli.positive, "steps for one row of loss.csv")
    add("checkpoint_every", cli.positive, "steps between checkpoints")
    return parser.parse_args()


def choose_run(args: argparse.Namespace) -> RunDirectory:
    """--out; without it the newest run to resume, or a name that is free for a new one."""
    if args.out is not None:
        return RunDirectory(args.out)
    if not args.resume:
        return RunDirectory(cli.free_name(DEFAULT_OUT))
    runs = sorted(
        DEFAULT_OUT.parent.glob(f"{DEFAULT_OUT.name}*/{RUN}"), key=lambda p: p.stat().st_mtime
    )
    if not runs:
        raise InputError(f"there is no run in {DEFAULT_OUT.parent}/ to resume: name it with --out.")
    return RunDirectory(runs[-1].parent)


def choose_options(args: argparse.Namespace, run: RunDirectory) -> dict[str, Any]:
    """The defaults, or the resumed run's options, with the given flags on top."""
    given = {name: value for name in RUN_OPTIONS if (value := getattr(args, name)) is not None}
    if not args.resume:
        return {**RUN_OPTIONS, **given}
    kept = {**RUN_OPTIONS, **run.read_options()}
    for name, value in given.items():
        if name not in MAY_CHANGE and value != kept[name]:
            raise InputError(
                f"the run in {run.path} has {name}={kept[name]}, not {value}: leave "
                f"--{name.replace('_', '-')} out to go on, or begin a new run with another --out."
            )
    return {**kept, **given}


def load_data(args: argparse.Namespace, options: dict[str, Any]) -> ImageDataset:
    if options["image_folder"] is None:
        return load_mnist(args.data_dir)
    channels = MODELS[options["model"]]["in_channels"]
    return load_folder(options["image_folder"], options["image_size"], channels)


def main() -> int:
    args = parse()
    started = time.perf_counter()
    minddpm.set_backend(args.backend)
    run = choose_run(args)
    options = choose_options(args, run)
    dataset = load_data(args, options)
    if args.epochs is not None:
        options["steps"] = -(-args.epochs * len(dataset.images) // options["batch_size"])

    T = options["timesteps"]
    diffusion = minddpm.GaussianDiffusion(
        minddpm.schedules.BY_NAME[options["schedule"]](T),
        options["prediction"],
        options["variance"],
    )
    if args.sample_steps > T:
        raise InputError(f"--sample-steps {args.sample_steps} of T = {T}: choose 1 .. {T}.")
    minddpm.manual_seed(options["seed"])
    _, H, W, C = dataset.images.shape
    unet = minddpm.UNet2D(
        **{**MODELS[options["model"]], "sample_size": H, "in_channels": C, "out_channels": C}
    )
    unet.check_image_size(H, W)
    fields = {f.name for f in dataclasses.fields(TrainingOptions)}
    training = TrainingOptions(**{k: v for k, v in options.items() if k in fields})
    trainer = Trainer(unet, diffusion, dataset, run, training)

    if args.resume:
        run.check_writable(trainer.bytes_needed())
        step = trainer.resume()
        run.write_options(options)
        print(f"resuming {run.path} at step {step}")
    else:
        run.create(options, trainer.bytes_needed())
    parameters = sum(p.size for p in unet.parameters())
    print(
        f"{len(dataset.images):,} images {H} x {W} x {C} ({dataset.source}); "
        f"{parameters:,} parameters; backend {active().name}"
    )
    print(f"{training.steps:,} steps of {training.batch_size} images, {trainer.cost()}")

    report.draw_forward(run, diffusion, dataset, training.seed)
    if not trainer.train():
        print(
            f"\nstopped at step {trainer.step}, saved. Go on with:\n"
            f"  python {sys.argv[0]} --out {run.path} --resume"
        )
        return cli.INTERRUPTED
    report.draw_loss(run)
    with trainer.ema.applied():
        report.draw_samples(
            run, unet.eval(), diffusion, args.samples, "ddim", args.sample_steps, training.seed
        )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{(time.perf_counter() - started) / 60:.1f} min, {memory:.1f} GB of memory at the most. "
        f"In {run.path}: samples.png, denoising.gif, forward.png, loss.png, loss.csv and the model "
        "(averaged weights), which diffusers opens too."
    )
    print(f"More digits: python examples/sample.py --model {run.path}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))

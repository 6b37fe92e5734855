"""Distil a trained model into few sampling steps (Salimans and Ho 2022); write it and samples.

    minddpm distill --model runs/mnist --out runs/mnist-4
    minddpm distill --model runs/mnist-4 --sampling-steps 2 --out runs/mnist-2
    minddpm distill --model runs/digits --guidance 2 --out runs/digits-4
    minddpm sample --model runs/mnist-4

diffusers can also open the run directory: DDIMPipeline.from_pretrained("runs/mnist-4").
"""

import argparse
import json
import time
import zlib
from pathlib import Path
from typing import Any

import minddpm
from minddpm import backend
from minddpm.commands import cli, run_figures, training_run
from minddpm.commands.parser import CommandParser
from minddpm.diffusion.scheduler_file import scheduler_config
from minddpm.errors import InputError
from minddpm.generate import image_size, seconds_per_run
from minddpm.pipeline import Pipeline
from minddpm.training.distillation import DistillationOptions, Distiller
from minddpm.training.run_directory import RunDirectory

DEFAULT_OUT = Path("runs/distilled")
FLAGS: dict[str, tuple[Any, str]] = {
    "steps_per_stage": (cli.positive, "training steps of each stage, which halves the steps"),
    "teacher_steps": (cli.positive, "DDIM steps of the model; those of a distilled model, or 16"),
    "sampling_steps": (cli.positive, "DDIM steps of the result"),
    "guidance": (
        float,
        "guidance of a class-conditional model, built into the result",
    ),
    "batch_size": (cli.positive, "images per step"),
    "seed": (int, "determines the batches and the noise"),
    "lr": (float, "learning rate of Adam at the start of a stage; it falls to zero in each"),
    "clip_norm": (float, "largest norm of the gradient"),
    "ema_decay": (float, "decay of the averaged weights, which are used for sampling"),
    "log_every": (cli.positive, "steps per row of loss.csv"),
    "checkpoint_every": (cli.positive, "steps between checkpoints"),
}
# Options stored with the run: --resume reads them from run.json.
RUN_OPTIONS: dict[str, Any] = {
    **training_run.MACHINE,
    **{name: getattr(DistillationOptions(), name) for name in FLAGS},
    "teacher": None,
    "teacher_steps": None,
    "data": None,
    "image_folder": None,
}


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "distillation", "files")
    distillation, files = parser.groups
    distillation.add_argument(
        "--model", dest="teacher", type=Path, help="directory of the trained model"
    )
    training_run.add_data(parser, distillation)
    training_run.add_run(parser, files, DEFAULT_OUT)
    files.add_argument("--samples", type=cli.positive, default=64, help="samples to draw (64)")
    for name, (kind, text) in FLAGS.items():
        default = "" if RUN_OPTIONS[name] is None else f" (default: {RUN_OPTIONS[name]})"
        group = parser.rare if name in training_run.RARE else distillation
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"{text}{default}")
    args = training_run.parse_data(parser)
    if args.teacher is not None:
        args.teacher = str(args.teacher.resolve())
    elif not args.resume:
        parser.error("--model is missing: give the directory of the trained model")
    return args


def identity(teacher: Pipeline) -> dict[str, int]:
    """Return the entry of run.json that identifies the teacher: a checksum of all its files."""
    config = scheduler_config(teacher.diffusion)
    checksum = zlib.crc32(json.dumps([teacher.unet.config, config]).encode())
    for p in teacher.unet.parameters():
        checksum = zlib.crc32(backend.to_numpy(p.data).tobytes(), checksum)
    return {"teacher_checksum": checksum}


def prepare(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> Distiller:
    """Return the trainer before its first step; create only an empty directory."""
    teacher = minddpm.load(options["teacher"])
    unet, own = teacher.unet, teacher.diffusion.sampling
    if options["teacher_steps"] is None:
        options["teacher_steps"] = (own.steps if own else None) or DistillationOptions.teacher_steps
    if options["guidance"] != 1 and not unet.num_classes:
        raise InputError(
            f"{options['teacher']} is not class-conditional: omit --guidance, or train it with "
            "--class-conditional."
        )
    kind = {**options, "class_conditional": unet.num_classes > 0}
    training = training_run.training_options(DistillationOptions, kind)
    H, W = image_size(unet)
    size, channels = (H, W), unet.config["in_channels"]
    if options["data"] is None and options["image_folder"] is None:
        size = channels = None  # MNIST as it is: a model of other images needs these to be named
    dataset = training_run.load_data(args, options, size, channels)
    if dataset.images.shape[1:] != (H, W, unet.config["in_channels"]):
        raise InputError(
            f"{options['teacher']} is a model of images {(H, W, unet.config['in_channels'])}, but "
            f"those of {dataset.source} are {dataset.images.shape[1:]}: give the model's images "
            "with --data."
        )
    checksum = identity(teacher)
    if args.resume and not checksum.items() <= run.read_info()[1].items():
        raise InputError(
            f"the run in {run.path} was distilled from another model than {options['teacher']}: "
            "give that one with --model, or start a new run with another --out."
        )
    trainer = Distiller(teacher, dataset, run, training)
    training_run.open_run(args, trainer)
    run.write_info(options, dataset.identity() | checksum)
    return trainer


def distil(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> int:
    started = time.perf_counter()
    trainer = prepare(args, run, options)
    unet, diffusion, chosen = trainer.unet, trainer.diffusion, trainer.options
    backend.compile_ahead(lambda: (trainer.trial(), seconds_per_run(unet, args.samples)))
    seconds = seconds_per_run(unet, args.samples) * chosen.sampling_steps
    print(
        f"{chosen.stages} stages of {chosen.steps_per_stage} training steps: "
        f"{chosen.teacher_steps} to {chosen.sampling_steps} sampling steps"
    )
    training_run.announce(trainer, options, f", then {args.samples} samples", seconds)
    if not training_run.train(trainer):
        return cli.INTERRUPTED
    run_figures.draw_loss(run)
    with trainer.ema.applied():
        run_figures.draw_samples(
            run, unet, diffusion, args.samples, "ddim", chosen.sampling_steps, chosen.seed
        )
    print(
        f"{(time.perf_counter() - started) / 60:.1f} min, {cli.peak_memory()}. Wrote samples.png, "
        "denoising.gif, loss.png, loss.csv and the model (averaged weights; diffusers opens it, "
        f"too) in {run.path}."
    )
    return 0


def main() -> int:
    return training_run.run_command(parse(), DEFAULT_OUT, RUN_OPTIONS, {}, distil)

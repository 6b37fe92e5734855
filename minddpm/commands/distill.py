"""Turn a trained model into one that needs one sampling step or a few; write it and samples.

    minddpm distill --model runs/mnist --out runs/mnist-2
    minddpm distill --model runs/digits --method progressive --guidance 2 --out runs/digits-4
    minddpm sample --model runs/mnist-2

--method consistency tunes the model until it sees the same image in all x_t of a path (Geng et al.
2024). --method progressive halves its DDIM steps, again and again (Salimans and Ho 2022).
diffusers can also open the run directory, by DiffusionPipeline.from_pretrained.
"""

import argparse
import json
import time
import zlib
from pathlib import Path
from typing import Any

import minddpm
from minddpm import backend
from minddpm.commands import cli, model_card, run_figures, run_options, training_run
from minddpm.commands.parser import CommandParser
from minddpm.diffusion.scheduler_file import scheduler_config
from minddpm.errors import InputError
from minddpm.generate import image_size, seconds_per_run
from minddpm.pipeline import Pipeline
from minddpm.training.consistency import ConsistencyOptions, ConsistencyTuner
from minddpm.training.distillation import DistillationOptions, Distiller
from minddpm.training.options import OPTIMIZERS
from minddpm.training.run_directory import RunDirectory
from minddpm.training.student import Student, StudentOptions

DEFAULT_OUT = Path("runs/distilled")
METHODS: dict[str, tuple[type[StudentOptions], type[Student]]] = {
    "consistency": (ConsistencyOptions, ConsistencyTuner),
    "progressive": (DistillationOptions, Distiller),
}
FLAGS: dict[str, tuple[Any, str]] = {
    "method": (str, " or ".join(METHODS)),
    "sampling_steps": (cli.positive, "sampling steps of the result (2; progressive: 4)"),
    "steps_per_stage": (cli.positive, "training steps of each stage"),
    "teacher_steps": (cli.positive, "progressive: the DDIM steps to begin with (16)"),
    "guidance": (
        float,
        "progressive: guidance of a class-conditional model, built in",
    ),
    "batch_size": (cli.positive, "images per step"),
    "seed": (int, "determines the batches and the noise"),
    "lr": (float, "learning rate at the start; it falls to zero"),
    "optimizer": (str, "muon or adam"),
    "clip_norm": (float, "largest norm of the gradient"),
    "ema_decay": (float, "decay of the averaged weights, which are used for sampling"),
    "log_every": (cli.positive, "steps per row of loss.csv"),
    "checkpoint_every": (cli.positive, "steps between checkpoints"),
}
# Options stored with the run: --resume reads them from run.json.
RUN_OPTIONS: dict[str, Any] = {
    **run_options.MACHINE,
    **{name: getattr(DistillationOptions(), name) for name in FLAGS if name != "method"},
    "method": "consistency",
    "sampling_steps": None,
    "teacher": None,
    "teacher_steps": None,
    "data": None,
    "image_folder": None,
}
# What a run.json means that lacks an option: its run is older than the option.
BEFORE = {**RUN_OPTIONS, "method": "progressive", "optimizer": "adam"}
CHOICES = {"method": list(METHODS), "optimizer": list(OPTIMIZERS)}


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
        group = parser.rare if name in (*training_run.RARE, "optimizer") else distillation
        group.add_argument(
            f"--{name.replace('_', '-')}", type=kind, choices=CHOICES.get(name),
            help=f"{text}{default}",
        )  # fmt: skip
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


def choose_method(teacher: Pipeline, options: dict[str, Any]) -> StudentOptions:
    """Return the options of the training; set those whose default depends on method or teacher."""
    progressive, own = options["method"] == "progressive", teacher.diffusion.sampling
    if not progressive:
        for name, default in (("teacher_steps", None), ("guidance", 1.0)):
            if options[name] != default:
                raise InputError(
                    f"--{name.replace('_', '-')} belongs to progressive distillation: leave it "
                    "out, or add --method progressive."
                )
    elif options["teacher_steps"] is None:
        options["teacher_steps"] = (own.steps if own else None) or DistillationOptions.teacher_steps
    if options["guidance"] != 1 and not teacher.unet.num_classes:
        raise InputError(
            f"{options['teacher']} is not class-conditional: omit --guidance, or train it with "
            "--class-conditional."
        )
    kind, _ = METHODS[options["method"]]
    options["sampling_steps"] = options["sampling_steps"] or kind.sampling_steps
    conditional = {"class_conditional": teacher.unet.num_classes > 0}
    return training_run.training_options(kind, {**options, **conditional})


def prepare(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> Student:
    """Return the trainer before its first step; create only an empty directory."""
    teacher = minddpm.load(options["teacher"])
    training, unet = choose_method(teacher, options), teacher.unet
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
    _, method = METHODS[options["method"]]
    trainer = method(teacher, dataset, run, training)
    training_run.open_run(args, trainer)
    if trainer.world.rank == 0:
        run.write_info(options, dataset.identity() | checksum)
    return trainer


def distil(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> int:
    started = time.perf_counter()
    trainer = prepare(args, run, options)
    unet, diffusion, chosen = trainer.unet, trainer.diffusion, trainer.options
    backend.compile_ahead(lambda: (trainer.trial(), seconds_per_run(unet, args.samples)))
    seconds = seconds_per_run(unet, args.samples) * chosen.sampling_steps
    first = f"{options['teacher_steps']} to " if options["teacher_steps"] else ""
    print(
        f"{chosen.stages} stages of {chosen.steps_per_stage} training steps: "
        f"{first}{chosen.sampling_steps} sampling steps"
    )
    training_run.announce(trainer, options, f", then {args.samples} samples", seconds)
    if not training_run.train(trainer):
        return cli.INTERRUPTED
    if trainer.world.rank > 0:
        return 0
    run_figures.draw_loss(run)
    with trainer.ema.applied():
        run_figures.draw_samples(
            run, unet, diffusion, args.samples, diffusion.sampling.sampler,
            chosen.sampling_steps, chosen.seed,
        )  # fmt: skip
    model_card.write_card(run.path)
    print(
        f"{(time.perf_counter() - started) / 60:.1f} min, {cli.peak_memory()}. Wrote index.html, "
        "samples.png, denoising.gif, loss.png, loss.csv, README.md and the model (averaged "
        f"weights; diffusers opens it, too) in {run.path}."
    )
    return 0


def main() -> int:
    return training_run.run_command(parse(), DEFAULT_OUT, RUN_OPTIONS, CHOICES, distil, BEFORE)

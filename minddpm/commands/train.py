"""Train a DDPM on MNIST or other images; write a diffusers pipeline, samples and loss curves.

minddpm train
minddpm train --data DIR --image-size 48x96 --model tiny --out runs/photos
minddpm train --out runs/mnist --resume --steps 6000
"""

import argparse
import dataclasses
import shlex
import time
from functools import partial
from pathlib import Path
from typing import Any

import minddpm
from minddpm import backend
from minddpm.commands import (
    cli,
    model_card,
    model_options,
    program,
    run_figures,
    run_options,
    training_run,
)
from minddpm.commands.parser import CommandParser
from minddpm.data import ImageDataset
from minddpm.data.fit import parse_size, size_option
from minddpm.diffusion.losses import LOSSES
from minddpm.diffusion.reverse import PREDICTIONS, VARIANCES
from minddpm.errors import InputError
from minddpm.generate import seconds_per_run
from minddpm.training.ddpm import Trainer, TrainingOptions
from minddpm.training.options import OPTIMIZERS, T_DRAWS
from minddpm.training.recipe import DIGITS, PLAIN, Recipe
from minddpm.training.run_directory import STATE, RunDirectory

DEFAULT_OUT = Path("runs/mnist")
MODELS = model_options.PRESETS
# A sampler that needs few steps, and with noise, which removes earlier errors of the model.
SAMPLER, SAMPLING_STEPS = "dpm_solver_sde", 20
GUIDANCE = 1.5  # of a class-conditional model: samples are clearer, and still vary


def options_of(model: str, recipe: Recipe) -> dict[str, Any]:
    """Return the options stored with a run: --resume reads them from run.json."""
    return {
        **run_options.MACHINE,
        **model_options.OPTIONS,
        "model": model,
        "timesteps": 1000,
        "schedule": recipe.schedule,
        "prediction": recipe.prediction,
        "variance": "fixed_small",
        "data": None,
        "image_folder": None,
        "image_size": None,
        "channels": None,
        **dataclasses.asdict(recipe.options),
    }


RUN_OPTIONS = options_of("one-block", DIGITS)
# What a run.json means that lacks an option: its run is older than the option.
BEFORE = options_of("small", PLAIN)
CHOICES: dict[str, Any] = {
    "precision": list(backend.PRECISIONS),
    "model": list(MODELS),
    "schedule": list(minddpm.schedules.BY_NAME),
    "prediction": PREDICTIONS,
    "variance": VARIANCES,
    "loss": LOSSES,
    "optimizer": list(OPTIMIZERS),
    "draw_t": T_DRAWS,
}


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "images", "network", "training", "diffusion", "files")
    images, network, training, diffusion, files = parser.groups

    def add(group: Any, name: str, kind: Any, text: str) -> None:
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            choices=CHOICES.get(name),
            help=f"{text} (default: {RUN_OPTIONS[name]})",
        )

    def switch(group: Any, name: str, text: str) -> None:
        group.add_argument(f"--{name}", action="store_true", default=None, help=text)

    training_run.add_data(parser, images)
    images.add_argument(
        "--image-size", type=image_size, metavar="N or HxW",
        help="images are scaled to cover it, and cropped (28 for a folder)",
    )  # fmt: skip
    images.add_argument(
        "--channels", type=int, choices=(1, 3), metavar="N",
        help="1: grey, 3: colour (default: as they are)",
    )  # fmt: skip
    switch(images, "flip", "flip a random half of the images from left to right")
    images.add_argument(
        "--unconditional", dest="class_conditional", action="store_false", default=None,
        help="do not condition the model on the classes",
    )  # fmt: skip
    add(network, "model", str, ", ".join(MODELS))
    model_options.add_model(parser, network, cli.positive)
    length = training.add_mutually_exclusive_group()
    add(length, "steps", cli.positive, "total training steps")
    length.add_argument("--epochs", type=cli.positive, help="passes over the data; sets --steps")
    add(training, "batch_size", cli.positive, "images per step, of all ranks together")
    add(training, "lr", float, "learning rate")
    add(training, "seed", int, "determines the initial weights, batches and noise")
    add(diffusion, "timesteps", cli.positive, "T, the length of the diffusion process")
    add(diffusion, "schedule", str, f"of the noise: {', '.join(CHOICES['schedule'])}")
    add(diffusion, "prediction", str, f"of the network: {', '.join(PREDICTIONS)}")
    training_run.add_run(parser, files, DEFAULT_OUT)
    files.add_argument("--samples", type=cli.positive, default=64, help="samples to draw (64)")
    rare = parser.rare
    rare.add_argument(
        "--sample-steps", type=cli.positive, help=f"sampling steps ({SAMPLING_STEPS})"
    )
    text = "of the reverse step; learned_range needs --loss hybrid or vlb"
    add(rare, "variance", str, f"{', '.join(VARIANCES)}: {text}")
    add(rare, "loss", str, "simple; vlb: the bound in bits/dim; hybrid: simple + 0.001 vlb")
    add(rare, "draw_t", str, f"{', '.join(T_DRAWS)}; log-snr: in --loss simple only")
    switch(rare, "importance-sampling", "draw t in proportion to its RMS loss, for --loss vlb")
    switch(rare, "class-conditional", "condition on the class: the default if there are any")
    add(rare, "label_dropout", float, "probability that an image's class is dropped")
    add(rare, "optimizer", str, "adam, or muon: for matrices, with Adam for the rest")
    add(rare, "accumulate", cli.positive, "parts in which a batch is computed, to save memory")
    add(rare, "warmup_steps", int, "steps of linear warm-up of the learning rate")
    add(rare, "cooldown", float, "final fraction of the steps: the learning rate falls to zero")
    add(rare, "clip_norm", float, "largest norm of the gradient")
    add(rare, "weight_decay", float, "decoupled weight decay (AdamW)")
    add(rare, "ema_decay", float, "decay of the averaged weights, which are used for sampling")
    add(rare, "log_every", cli.positive, "steps per row of loss.csv")
    add(rare, "checkpoint_every", cli.positive, "steps between checkpoints")
    args = training_run.parse_data(parser)
    given = [name for name in ("model", "config", "init_from") if getattr(args, name) is not None]
    if len(given) > 1:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        parser.error(f"{flags} each choose a model: give only one")
    return args


def image_size(text: str) -> int | str:
    """Return a size as run.json stores it; an argparse type."""
    try:
        return size_option(parse_size(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def load_images(args: argparse.Namespace, options: dict[str, Any]) -> ImageDataset:
    """Return the images, and store their size and channels in the options."""
    size, channels = options["image_size"], options["channels"]
    if args.resume and channels is None and options["image_folder"] is not None:
        channels = MODELS[options["model"]]["in_channels"]  # a run from before --channels existed
    dataset = training_run.load_data(args, options, None if size is None else parse_size(size),
                                     channels)  # fmt: skip
    _, H, W, C = dataset.images.shape
    options |= {"image_size": size_option((H, W)), "channels": C}
    return dataset


def prepare(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> Trainer:
    """Return the trainer before its first step; create only an empty directory."""
    dataset = load_images(args, options)
    if not args.resume and args.class_conditional is None and dataset.num_classes < 2:
        options["class_conditional"] = False
    H = dataset.images.shape[1]
    architecture = model_options.choose_architecture(options, MODELS[options["model"]], H)
    if args.epochs is not None:
        options["steps"] = -(-args.epochs * len(dataset) // options["batch_size"])
    diffusion = minddpm.GaussianDiffusion(
        minddpm.schedules.BY_NAME[options["schedule"]](options["timesteps"]),
        options["prediction"],
        options["variance"],
    )
    training = training_run.training_options(TrainingOptions, options)
    minddpm.manual_seed(training.seed)
    unet = model_options.build_unet(
        architecture, dataset, options["variance"] == "learned_range", training.class_conditional,
        training.batch_size,
    )  # fmt: skip
    if options["init_from"] and not (args.resume and (run.path / STATE).exists()):
        model_options.initialise(unet, options["init_from"])
    trainer = Trainer(unet, diffusion, dataset, run, training)
    training_run.open_run(args, trainer)
    return trainer


def train(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> int:
    started = time.perf_counter()
    T = options["timesteps"]
    sample_steps = min(SAMPLING_STEPS, T) if args.sample_steps is None else args.sample_steps
    minddpm.samplers.timesteps(T, sample_steps)  # check steps before training
    trainer = prepare(args, run, options)
    # Without dropped labels the model has not learned what guidance compares with.
    guided = trainer.options.class_conditional and trainer.options.label_dropout > 0
    guidance = GUIDANCE if guided else 1.0
    seconds_of_model = partial(seconds_per_run, trainer.unet, args.samples, guidance)
    backend.compile_ahead(lambda: (trainer.trial(), seconds_of_model()))
    seconds = seconds_of_model() * sample_steps
    training_run.announce(trainer, options, f", then {args.samples} samples", seconds)
    first = trainer.world.rank == 0  # the rank that writes the files
    unet, diffusion, seed = trainer.unet, trainer.diffusion, trainer.options.seed
    if first:
        run.write_info(options, trainer.dataset.identity())
        run_figures.draw_forward(run, diffusion, trainer.dataset, seed)
    if not training_run.train(trainer):
        return cli.INTERRUPTED
    if not first:
        return 0
    run_figures.draw_loss(run)
    with trainer.ema.applied():
        run_figures.draw_samples(
            run, unet, diffusion, args.samples, SAMPLER, sample_steps, seed, guidance
        )  # fmt: skip
    model_card.write_card(run.path)
    print(
        f"{(time.perf_counter() - started) / 60:.1f} min, {cli.peak_memory()}. "
        "Wrote index.html, samples.png, denoising.gif, forward.png, loss.png, loss.csv, README.md "
        f"and the model (averaged weights; diffusers opens it, too) in {run.path}."
    )
    again = [*program.words_of("sample"), "--model", str(run.path)]
    print(f"more samples: {shlex.join(again)}")
    return 0


def main() -> int:
    return training_run.run_command(parse(), DEFAULT_OUT, RUN_OPTIONS, CHOICES, train, BEFORE)

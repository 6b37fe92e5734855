"""Train a GAN on MNIST for comparison with the DDPM.

python examples/train_gan.py
python examples/train_gan.py --out runs/gan --resume --steps 16500
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import minddpm
from minddpm.baselines.gan.model import Discriminator, Generator
from minddpm.baselines.gan.training import GENERATOR_FILE, GANLoop, GANOptions
from minddpm.baselines.sampling import sample_generator
from minddpm.commands import cli, run_options, training_run
from minddpm.commands.parser import CommandParser
from minddpm.commands.run_figures import draw_log
from minddpm.data.named import GREY_28, load_named
from minddpm.drawing import grid, save_png
from minddpm.training.run_directory import RunDirectory

DEFAULT_OUT = Path("runs/gan")
RUN_OPTIONS: dict[str, Any] = {
    **run_options.MACHINE,
    "data": "mnist",
    **dataclasses.asdict(GANOptions()),
}


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "training", "files")
    training, files = parser.groups
    training_run.add_grey_data(training)
    training_run.add_options(parser, training, GANOptions())
    training_run.add_run(parser, files, DEFAULT_OUT)
    return parser.parse_args()


def train(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> int:
    started = time.perf_counter()
    training = training_run.training_options(GANOptions, options)
    minddpm.manual_seed(training.seed)
    loop = GANLoop(
        Generator(), Discriminator(), load_named(options["data"], args.data_dir), run, training
    )
    training_run.begin(args, loop, options)
    if not training_run.train(loop):
        return cli.INTERRUPTED
    with loop.ema.applied():
        samples = sample_generator(loop.generator, 64, training.seed)
    save_png(grid(samples), run.path / "samples.png")
    losses = {"generator": "loss_generator", "discriminator": "loss_discriminator"}
    draw_log(run, {**losses, "D(real)": "d_real", "D(fake)": "d_fake"}, "loss, D(x)")
    minutes = (time.perf_counter() - started) / 60
    print(
        f"{minutes:.1f} min, {cli.peak_memory()}. Wrote samples.png, loss.png, loss.csv and "
        f"{GENERATOR_FILE} (averaged weights) in {run.path}."
    )
    return 0


def main() -> int:
    choices = {"data": list(GREY_28)}
    return training_run.run_command(parse(), DEFAULT_OUT, RUN_OPTIONS, choices, train)


if __name__ == "__main__":
    sys.exit(cli.run(main))

"""Train a GAN on MNIST, to compare with the DDPM.

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
from minddpm.baselines.gan.training import FILE, GANLoop, GANOptions
from minddpm.baselines.sampling import from_generator
from minddpm.commands import cli
from minddpm.commands import training_run as command
from minddpm.commands.run_figures import draw_log
from minddpm.data import load_mnist
from minddpm.drawing import grid, save_png
from minddpm.training.run_directory import RunDirectory

DEFAULT_OUT = Path("runs/gan")
RUN_OPTIONS: dict[str, Any] = {**command.MACHINE, **dataclasses.asdict(GANOptions())}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_run(parser, DEFAULT_OUT)
    command.add_options(parser, GANOptions())
    return parser.parse_args()


def train(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> int:
    started = time.perf_counter()
    training = command.training_options(GANOptions, options)
    minddpm.manual_seed(training.seed)
    loop = GANLoop(Generator(), Discriminator(), load_mnist(args.data_dir), run, training)
    command.begin(args, loop, options)
    if not command.train(loop):
        return cli.INTERRUPTED
    with loop.ema.applied():
        pictures = from_generator(loop.generator, 64, training.seed)
    save_png(grid(pictures), run.path / "samples.png")
    losses = {"generator": "loss_generator", "discriminator": "loss_discriminator"}
    draw_log(run, {**losses, "D(real)": "d_real", "D(made)": "d_fake"}, "loss, verdict")
    minutes = (time.perf_counter() - started) / 60
    print(
        f"{minutes:.1f} min, {cli.peak_memory()}. In {run.path}: samples.png, loss.png, loss.csv "
        f"and {FILE} (averaged weights)."
    )
    return 0


def main() -> int:
    args = parse()
    run = command.choose_run(args, DEFAULT_OUT)
    options = command.choose_options(args, run, RUN_OPTIONS, {})
    command.start(options)
    return command.interruptible(run, lambda: train(args, run, options))


if __name__ == "__main__":
    sys.exit(cli.run(main))

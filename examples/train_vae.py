"""Train a VAE on MNIST for comparison with the DDPM, or to see the latent code collapse.

python examples/train_vae.py
python examples/train_vae.py --likelihood gaussian      # a bound in bits/dim
python examples/train_vae.py --beta 30                  # a posterior equal to the prior
"""

import argparse
import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import minddpm
from minddpm.baselines.sampling import bound, reconstructions, sample_vae
from minddpm.baselines.vae.model import LIKELIHOODS, VAE, active_units
from minddpm.baselines.vae.training import VAE_FILE, VAELoop, VAEOptions
from minddpm.commands import cli, run_options, training_run
from minddpm.commands.parser import CommandParser
from minddpm.commands.run_figures import draw_log
from minddpm.data import ImageDataset, to_float
from minddpm.data.named import GREY_28, load_named
from minddpm.drawing import grid, save_png, strip
from minddpm.training.run_directory import RunDirectory

DEFAULT_OUT = Path("runs/vae")
RUN_OPTIONS: dict[str, Any] = {
    **run_options.MACHINE,
    "data": "mnist",
    "likelihood": "bernoulli",
    "latent": 16,
    **dataclasses.asdict(VAEOptions()),
}


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "training", "files")
    training, files = parser.groups
    training_run.add_grey_data(training)
    training_run.add_options(parser, training, VAEOptions())
    training.add_argument("--likelihood", choices=LIKELIHOODS, help="of each pixel (bernoulli)")
    training.add_argument("--latent", type=cli.positive, help="latent dimensions (16)")
    training_run.add_run(parser, files, DEFAULT_OUT)
    return parser.parse_args()


def describe_bound(vae: VAE, test: ImageDataset) -> str:
    """Return one line with the bound on the test digits and the number of active units."""
    reconstruction, kl, codes = bound(vae, test)
    nats = reconstruction + kl.sum(axis=1)
    error = nats.std(ddof=1) / math.sqrt(len(nats)) if len(nats) > 1 else math.nan
    text = (
        f"-ELBO of {len(test):,} test digits: {nats.mean():.2f} nats (standard error {error:.2f}), "
        f"reconstruction {reconstruction.mean():.2f} and KL {kl.sum(axis=1).mean():.2f}"
    )
    if vae.likelihood == "gaussian":
        text += f"; {nats.mean() / math.log(2) / test.images[0].size:.3f} bits/dim"
    return f"{text}; {active_units(codes)} of {vae.latent} units are active"


def train(args: argparse.Namespace, run: RunDirectory, options: dict[str, Any]) -> int:
    started = time.perf_counter()
    training = training_run.training_options(VAEOptions, options)
    minddpm.manual_seed(training.seed)
    vae = VAE(latent=options["latent"], likelihood=options["likelihood"])
    loop = VAELoop(vae, load_named(options["data"], args.data_dir), run, training)
    training_run.begin(args, loop, options)
    if not training_run.train(loop):
        return cli.INTERRUPTED
    test = load_named(options["data"], args.data_dir, "test")
    with loop.ema.applied():
        save_png(grid(sample_vae(vae, 64, training.seed)), run.path / "samples.png")
        shown = test.images[:16]
        pairs = np.stack([to_float(shown), reconstructions(vae, shown)], axis=1)
        save_png(strip(list(pairs)), run.path / "reconstructions.png")
        print(describe_bound(vae, test))
    names = {"reconstruction": "reconstruction", "KL": "kl", "sum": "loss"}
    draw_log(run, names, "nats per image", log_y=True)
    minutes = (time.perf_counter() - started) / 60
    print(
        f"{minutes:.1f} min, {cli.peak_memory()}. Wrote samples.png, reconstructions.png, "
        f"loss.png, loss.csv and {VAE_FILE} (averaged weights) in {run.path}."
    )
    return 0


def main() -> int:
    choices = {"likelihood": list(LIKELIHOODS), "data": list(GREY_28)}
    return training_run.run_command(parse(), DEFAULT_OUT, RUN_OPTIONS, choices, train)


if __name__ == "__main__":
    sys.exit(cli.run(main))

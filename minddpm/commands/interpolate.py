"""Interpolate between test digits in noise space: DDIM inversion, slerp, DDIM sampling.

    minddpm interpolate --model runs/mnist

Writes one PNG. Each row shows a digit, its reconstruction from its own noise (any difference is
an error of the inversion), samples from interpolated noise, and the second digit likewise.
"""

import argparse
from pathlib import Path

import numpy as np

import minddpm
from minddpm import backend
from minddpm.commands import cli
from minddpm.commands.parser import CommandParser
from minddpm.data import to_float
from minddpm.diffusion.sampling import interpolate, nearer_labels
from minddpm.drawing import save_png, strip
from minddpm.generate import conditioned, seconds_per_run
from minddpm.progress_bar import tqdm


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "sampling", "files")
    sampling, files = parser.groups
    cli.add_model(sampling)
    sampling.add_argument("--pairs", type=cli.positive, default=6, help="pairs of digits (6)")
    sampling.add_argument("--between", type=cli.positive, default=7, help="samples per pair (7)")
    sampling.add_argument("--steps", type=int, default=100, help="steps in each direction (100)")
    files.add_argument("--out", type=Path, help="PNG (default: interpolate.png or a free name)")
    cli.add_data_dir(files)
    cli.add_machine(parser)
    return parser.parse_args()


def main() -> None:
    args = parse()
    out = cli.new_file(args.out, "interpolate.png")
    cli.start(args)
    unet, diffusion, data = cli.load_model_and_data(args.model, args.data_dir, 2 * args.pairs)
    minddpm.samplers.timesteps(diffusion.T, args.steps)  # raises if the number is invalid
    x0 = to_float(data.images[: 2 * args.pairs])
    shares = np.linspace(0, 1, args.between + 2)
    N = args.pairs * len(shares)
    seconds = args.steps * (seconds_per_run(unet, len(x0)) + seconds_per_run(unet, N))
    print(f"{args.pairs} pairs in {args.steps} steps each way: {seconds:.0f} s")
    labels = data.labels[: len(x0)]
    steps = minddpm.samplers.invert(
        diffusion, conditioned(unet, labels), backend.xp.asarray(x0), args.steps, spacing="linspace"
    )
    for step in tqdm(steps, total=args.steps, unit="step", desc="invert"):
        noise = step.x
    # A class-conditional model is conditioned on the nearer digit.
    model = conditioned(unet, nearer_labels(labels[0::2], labels[1::2], shares))
    steps = interpolate(
        diffusion, model, noise[0::2], noise[1::2], shares, args.steps, spacing="linspace"
    )
    for step in tqdm(steps, total=args.steps, unit="step", desc="sample"):
        samples = step.x
    samples = backend.to_numpy(samples).reshape(len(shares), args.pairs, *x0.shape[1:])
    frames = [x0[0::2], *samples, x0[1::2]]
    names = ["digit", *(f"{share:.2f}" for share in shares), "digit"]
    save_png(strip(frames, names, scale=2), out)
    print(f"wrote {out}")

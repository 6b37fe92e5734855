"""Fill in the missing part of test digits, several times for each digit.

    minddpm inpaint --model runs/mnist
    minddpm inpaint --model runs/mnist --missing top --steps 250 --resample 10

Writes one PNG. Each row shows a digit, its known part, and the model's completions.
"""

import argparse
from pathlib import Path

import numpy as np

import minddpm
from minddpm import backend, random
from minddpm.commands import cli
from minddpm.commands.known_part import PARTS, known_mask
from minddpm.commands.parser import CommandParser
from minddpm.data import to_float
from minddpm.diffusion.sampling import inpaint
from minddpm.drawing import save_png, strip
from minddpm.generate import conditioned, seconds_per_run
from minddpm.progress_bar import tqdm


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "sampling", "files")
    sampling, files = parser.groups
    cli.add_model(sampling)
    sampling.add_argument("--count", type=cli.positive, default=8, help="number of digits (8)")
    sampling.add_argument("--tries", type=cli.positive, default=4, help="completions per digit (4)")
    sampling.add_argument(
        "--missing", choices=PARTS, default="bottom", help=f"{', '.join(PARTS)} (default: bottom)"
    )
    sampling.add_argument("--steps", type=int, default=100, help="sampling steps (100)")
    sampling.add_argument("--resample", type=cli.positive, default=5, help="runs of each step (5)")
    sampling.add_argument("--seed", type=int, default=0, help="random seed (0)")
    files.add_argument("--out", type=Path, help="PNG (default: inpaint.png, or a free name)")
    cli.add_data_dir(files)
    cli.add_machine(parser)
    return parser.parse_args()


def main() -> None:
    args = parse()
    random.check_seed(args.seed)
    out = cli.new_file(args.out, "inpaint.png")
    cli.start(args)
    unet, diffusion, data = cli.load_model_and_data(args.model, args.data_dir, args.count)
    minddpm.samplers.timesteps(diffusion.T, args.steps)  # raises if the number is invalid
    x0 = to_float(data.images[: args.count])
    mask = known_mask(*x0.shape[1:3], args.missing)
    N = args.count * args.tries
    seconds = seconds_per_run(unet, N) * args.steps * args.resample
    print(f"{N} samples in {args.steps} steps, each {args.resample} times: {seconds:.0f} s")
    repeated = backend.xp.asarray(np.repeat(x0, args.tries, axis=0))
    model = conditioned(unet, np.repeat(data.labels[: args.count], args.tries))
    steps = inpaint(
        diffusion, model, repeated, backend.xp.asarray(mask), args.steps,
        resample=args.resample, seed=args.seed, spacing="linspace",
    )  # fmt: skip
    for step in tqdm(steps, total=args.steps, unit="step"):
        samples = step.x
    samples = backend.to_numpy(samples).reshape(args.count, args.tries, *x0.shape[1:])
    grey = np.where(mask == 1, x0, 0)
    columns = [x0, grey, *(samples[:, i] for i in range(args.tries))]
    save_png(strip(columns, ["digit", "known", *["filled"] * args.tries], scale=3), out)
    print(f"wrote {out}")

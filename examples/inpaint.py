"""Fill in the missing part of test digits, several times: the model as an imagination.

    python examples/inpaint.py --model runs/mnist
    python examples/inpaint.py --model runs/mnist --missing top --steps 250 --resample 10

A picture is written: the digit, what is left of it, and what the model makes of that.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

import minddpm
from minddpm import backend, random
from minddpm.commands import cli
from minddpm.data import to_float
from minddpm.diffusion.sampling import inpaint
from minddpm.drawing import save_png, strip
from minddpm.generate import seconds_per_run

PARTS = ("top", "bottom", "left", "right", "centre")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_model_and_data(parser)
    parser.add_argument("--count", type=cli.positive, default=8, help="digits (8)")
    parser.add_argument("--tries", type=cli.positive, default=4, help="completions of each (4)")
    parser.add_argument("--missing", choices=PARTS, default="bottom", help="default: bottom")
    parser.add_argument("--steps", type=int, default=100, help="of the sampler (100)")
    parser.add_argument("--resample", type=cli.positive, default=5, help="times for each step (5)")
    parser.add_argument("--seed", type=int, default=0, help="decides the noise (0)")
    parser.add_argument("--out", type=Path, help="the picture (default: a new inpaint.png here)")
    return parser.parse_args()


def known(H: int, W: int, missing: str) -> np.ndarray:
    """1 where the picture is known: float32 [H, W, 1]."""
    mask = np.ones((H, W, 1), np.float32)
    rows, columns = {
        "top": (slice(0, H // 2), slice(None)), "bottom": (slice(H // 2, None), slice(None)),
        "left": (slice(None), slice(0, W // 2)), "right": (slice(None), slice(W // 2, None)),
        "centre": (slice(H // 4, -(H // 4)), slice(W // 4, -(W // 4))),
    }[missing]  # fmt: skip
    mask[rows, columns] = 0
    return mask


def main() -> None:
    args = parse()
    random.check_seed(args.seed)
    out = cli.new_file(args.out, "inpaint.png")
    cli.start(args)
    unet, diffusion, data = cli.load_model_and_data(args.model, args.data_dir, args.count)
    minddpm.samplers.timesteps(diffusion.T, args.steps)  # refuses a wrong number
    x0 = to_float(data.images[: args.count])
    mask = known(*x0.shape[1:3], args.missing)
    N = args.count * args.tries
    seconds = seconds_per_run(unet, N) * args.steps * args.resample
    print(f"{N} pictures by {args.steps} steps, each {args.resample} times: {seconds:.0f} s")
    many = backend.xp.asarray(np.repeat(x0, args.tries, axis=0))
    model = cli.conditioned_on(unet, np.repeat(data.labels[: args.count], args.tries))
    walk = inpaint(
        diffusion, model, many, backend.xp.asarray(mask), args.steps,
        resample=args.resample, seed=args.seed, spacing="linspace",
    )  # fmt: skip
    for step in tqdm(walk, total=args.steps, unit="step"):
        made = step.x
    made = backend.to_numpy(made).reshape(args.count, args.tries, *x0.shape[1:])
    grey = np.where(mask == 1, x0, 0)
    columns = [x0, grey, *(made[:, i] for i in range(args.tries))]
    save_png(strip(columns, ["digit", "left", *["made"] * args.tries], scale=3), out)
    print(f"wrote {out}")


if __name__ == "__main__":
    sys.exit(cli.run(main))

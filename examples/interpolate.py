"""From one test digit to another through the noise: DDIM up, along the sphere, and down again.

    python examples/interpolate.py --model runs/mnist

A picture is written: on the left and on the right the two digits after the way there and back,
which shows how much is lost on it, and between them what lies between their noises.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

import minddpm
from minddpm import backend
from minddpm.commands import cli
from minddpm.data import to_float
from minddpm.diffusion.sampling import dpm_solver as samplers
from minddpm.diffusion.sampling import slerp
from minddpm.drawing import save_png, strip
from minddpm.generate import seconds_per_run


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_model_and_data(parser)
    parser.add_argument("--pairs", type=cli.positive, default=6, help="of test digits (6)")
    parser.add_argument("--between", type=cli.positive, default=7, help="pictures between (7)")
    parser.add_argument("--steps", type=int, default=100, help="of the sampler, each way (100)")
    parser.add_argument("--out", type=Path, help="the picture (default: a new interpolate.png)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    out = cli.new_file(args.out, "interpolate.png")
    cli.start(args)
    unet, diffusion, data = cli.load_model_and_data(args.model, args.data_dir, 2 * args.pairs)
    minddpm.samplers.timesteps(diffusion.T, args.steps)  # refuses a wrong number
    x0 = to_float(data.images[: 2 * args.pairs])
    columns = args.between + 2
    runs = args.steps * (
        seconds_per_run(unet, len(x0)) + seconds_per_run(unet, args.pairs) * columns
    )
    print(f"{args.pairs} pairs by {args.steps} steps each way: {runs:.0f} s")
    model = cli.conditioned_on(unet, data.labels[: len(x0)])
    walk = samplers.invert(diffusion, model, backend.xp.asarray(x0), args.steps, spacing="linspace")
    for step in tqdm(walk, total=args.steps, unit="step", desc="up"):
        noise = step.x
    first, second = noise[0::2], noise[1::2]
    shares = np.linspace(0, 1, columns)
    pictures = []
    for share in tqdm(shares, unit="column", desc="down"):
        # A class-conditional model is told the nearer digit.
        labels = data.labels[: len(x0)][int(share > 0.5) :: 2]
        x_T = slerp(first, second, float(share))
        model = cli.conditioned_on(unet, labels)
        *_, step = samplers.ddim(
            diffusion, model, x_T.shape, args.steps, x_T=x_T, spacing="linspace"
        )
        pictures.append(backend.to_numpy(step.x))
    frames = [x0[0::2], *pictures, x0[1::2]]
    labels = ["digit", *(f"{share:.2f}" for share in shares), "digit"]
    save_png(strip(frames, labels, scale=2), out)
    print(f"wrote {out}")


if __name__ == "__main__":
    sys.exit(cli.run(main))

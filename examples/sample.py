"""Make pictures with a trained model: a run directory, or a diffusers pipeline of a UNet2DModel.

python examples/sample.py --model runs/mnist --sampler ddim --steps 50
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import minddpm
from minddpm import backend, cli, random
from minddpm.checkpoint import load_diffusion
from minddpm.data import to_uint8
from minddpm.errors import InputError
from minddpm.files import atomic_write, check_writable
from minddpm.generate import SAMPLERS, generate, seconds_per_step
from minddpm.viz import grid, save_png


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_backend(parser)
    cli.add_threads(parser)
    cli.add_precision(parser)
    parser.add_argument("--model", type=Path, required=True, help="the directory of the model")
    parser.add_argument("--count", type=cli.positive, default=64, help="pictures to make (64)")
    parser.add_argument("--sampler", default="ddpm", choices=SAMPLERS, help="default: ddpm")
    parser.add_argument("--steps", type=int, help="of the sampler (ddpm: all T; others: 50)")
    parser.add_argument("--seed", type=int, default=0, help="decides the noise (0)")
    parser.add_argument("--batch-size", type=cli.positive, default=64, help="at a time (64)")
    parser.add_argument("--out", type=Path, help="the grid (default: a new samples.png here)")
    parser.add_argument("--npz", type=Path, help="also all pictures, uint8 [N, H, W], as 'images'")
    return parser.parse_args()


def main() -> None:
    args = parse()
    random.check_seed(args.seed)
    for path in (args.out, args.npz):
        if path is not None and path.exists():
            raise InputError(f"{path} exists: choose another name, or remove it first.")
    out = args.out or cli.free_name(Path("samples.png"))
    if args.npz is not None and args.npz.resolve() == out.resolve():
        raise InputError(f"--out and --npz are both {out}: choose two names.")
    minddpm.set_backend(args.backend or "auto")
    backend.set_threads(args.threads)
    backend.set_precision(args.precision or "float32")
    unet = minddpm.UNet2D.from_pretrained(args.model)
    diffusion = load_diffusion(args.model)
    channels = unet.config["in_channels"], unet.config["out_channels"]
    each = 2 if diffusion.variance == "learned_range" else 1
    if channels not in ((1, each), (3, 3 * each)) or unet.config["num_class_embeds"] is not None:
        raise InputError(
            f"{args.model} maps {channels[0]} channels to {channels[1]}, variance "
            f"{diffusion.variance}, classes: {unet.config['num_class_embeds']}; choose a model of "
            "grey or colour pictures without classes, with twice the channels for learned_range."
        )
    steps = args.steps
    if steps is None:
        steps = diffusion.T if args.sampler == "ddpm" else min(50, diffusion.T)

    batch = min(args.batch_size, args.count)
    minddpm.schedules.timesteps(diffusion.T, steps)  # refuses a wrong number before the timing
    for path in filter(None, (out, args.npz)):
        check_writable(path)
    seconds = seconds_per_step(unet, batch) * steps * args.count / batch
    print(f"{args.count} pictures by {steps} {args.sampler} steps: about {seconds / 60:.1f} min")
    pictures = generate(
        unet, diffusion, args.count, args.sampler, steps, args.seed, args.batch_size
    )
    save_png(grid(pictures), out)
    files = str(out)
    if args.npz is not None:
        pixels = to_uint8(pictures)
        with atomic_write(args.npz) as file:
            np.savez_compressed(file, images=pixels[..., 0] if pixels.shape[3] == 1 else pixels)
        files += f" and {args.npz}"
    print(f"wrote {files}")


if __name__ == "__main__":
    sys.exit(cli.run(main))

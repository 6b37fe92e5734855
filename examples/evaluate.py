"""Judge a trained model: the bound on the likelihood of MNIST's test digits, in bits/dim.

    python examples/evaluate.py --model runs/mnist
    python examples/evaluate.py --model runs/mnist --images 100 --exact --json bound.json

L_T, the terms between and L_0 are told apart. By default each image's sum over t is estimated from
a few t (unbiased, with a standard error); --exact runs the model at every t.
"""

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import minddpm
from minddpm import backend, cli, random
from minddpm.autodiff import no_grad
from minddpm.checkpoint import write_json
from minddpm.data import to_float
from minddpm.errors import InputError
from minddpm.generate import seconds_per_run


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_model_and_data(parser)
    parser.add_argument("--images", type=cli.positive, default=1000, help="test images (1000)")
    parser.add_argument("--draws", type=cli.positive, default=20, help="of t for each image (20)")
    parser.add_argument("--exact", action="store_true", help="every t, instead of draws")
    parser.add_argument("--batch-size", type=cli.positive, default=125, help="at a time (125)")
    parser.add_argument("--seed", type=int, default=0, help="decides t and the noise (0)")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    return parser.parse_args()


def main() -> None:
    args = parse()
    random.check_seed(args.seed)
    if args.json is not None:
        cli.new_file(args.json, "")
    unet, diffusion, data = cli.load_model_and_data(args, args.images)
    if not args.exact and args.draws >= diffusion.T:
        raise InputError(f"{args.draws} draws of {diffusion.T} steps: choose fewer, or --exact.")
    runs = diffusion.T if args.exact else args.draws + 1
    seconds = seconds_per_run(unet, args.batch_size) * runs * args.images / args.batch_size
    how = "every t" if args.exact else f"{args.draws} t for each image, and t = 0"
    print(f"{args.images} images ({data.source}), {how}: about {seconds / 60:.1f} min")
    started = time.perf_counter()
    parts = measure(unet, diffusion, data, args)
    numbers = summary(parts, args)
    print(cli.markdown(["bits/dim", "", "standard error"], table(numbers)))
    if args.json is not None:
        write_json(args.json, numbers)
        print(f"wrote {args.json}")
    print(f"{(time.perf_counter() - started) / 60:.1f} min")


def measure(
    unet: minddpm.UNet2D, diffusion: minddpm.GaussianDiffusion, data: Any, args: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Of each image: total, prior, decoder and all between, float64 [images]."""
    rows: list[np.ndarray] = []
    starts = range(0, args.images, args.batch_size)
    with no_grad(), backend.kernels.constant_weights():
        for first in tqdm(starts, unit="batch"):
            chosen = slice(first, min(first + args.batch_size, args.images))
            x0 = backend.xp.asarray(to_float(data.images[chosen]))
            model = cli.told_labels(unet, data.labels[chosen])
            if args.exact:
                whole = diffusion.bits_per_dim(model, x0, args.seed, first)
                decoder = whole.terms[:, 0]
            else:
                whole = diffusion.estimate_bits_per_dim(model, x0, args.draws, args.seed, first)
                decoder = whole.decoder
            rows.append(np.stack([whole.total, whole.prior, decoder]))
    total, prior, decoder = np.concatenate(rows, axis=1)
    return {
        "bits_per_dim": total,
        "L_T": prior,
        "L_between": total - prior - decoder,
        "L_0": decoder,
    }


def summary(parts: dict[str, np.ndarray], args: argparse.Namespace) -> dict[str, Any]:
    """What stands in the JSON file: the mean of each part over the images."""
    common = {
        "n": args.images, "split": "test", "weights": "EMA", "seed": args.seed,
        "draws": "every t" if args.exact else args.draws,
    }  # fmt: skip
    return {
        name: {
            "value": float(values.mean()),
            "standard_error": float(values.std(ddof=1) / math.sqrt(len(values)))
            if len(values) > 1
            else None,
            **common,
        }
        for name, values in parts.items()
    }


def table(numbers: dict[str, Any]) -> list[list[str]]:
    names = {
        "bits_per_dim": "the bound", "L_T": "L_T, what is left in x_T",
        "L_between": "L_1 .. L_{T-1}, the steps", "L_0": "L_0, the decoder",
    }  # fmt: skip
    return [
        [
            text,
            f"{numbers[name]['value']:.5f}",
            "-" if (error := numbers[name]["standard_error"]) is None else f"{error:.5f}",
        ]
        for name, text in names.items()
    ]


if __name__ == "__main__":
    sys.exit(cli.run(main))

"""Judge a trained model, or any pictures of digits: FID and its relatives, and bits/dim.

    python examples/evaluate.py --model runs/mnist
    python examples/evaluate.py --model runs/mnist --count 10000 --sampler ddpm --steps 250
    python examples/evaluate.py --model runs/vae
    python examples/evaluate.py --samples digits.npz --json digits.json

Every metric of pictures stands beside what real digits get, and what pictures get that show none;
which ones these are is said below the table. Of a model, also the bound on the likelihood of
MNIST's test digits: L_T, the terms between and L_0 apart, from a few t for each digit, or from
every t with --exact.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from minddpm import random
from minddpm.baselines.gan.model import Generator
from minddpm.baselines.sampling import load_maker, make
from minddpm.baselines.vae.model import VAE
from minddpm.commands import cli
from minddpm.data import ImageDataset, load_mnist, to_float, to_uint8
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.drawing import save_png, strip
from minddpm.errors import InputError
from minddpm.evaluation.image_archive import read_pictures
from minddpm.evaluation.metrics.judge import SHIPPED, Judge, load_judge
from minddpm.evaluation.metrics.likelihood import bits_per_dim, vae_bits_per_dim
from minddpm.evaluation.metrics.nearest import nearest
from minddpm.evaluation.report import Reference, check_pictures, evaluate
from minddpm.generate import ADAPTIVE, SAMPLERS, generate, seconds_per_run, spacing
from minddpm.models import UNet2D
from minddpm.storage.json_files import write_json


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_machine(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="the directory of the model")
    source.add_argument("--samples", type=Path, help="an .npz file with 'images' (and 'labels')")
    parser.add_argument("--data-dir", type=Path, help="folder with the four IDX files of MNIST")
    parser.add_argument("--judge", type=Path, default=SHIPPED, help="a classifier.safetensors")
    parser.add_argument("--seed", type=int, default=0, help="decides t and the noise (0)")
    parser.add_argument("--batch-size", type=cli.positive, default=125, help="at a time (125)")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument(
        "--nearest", type=Path, help="a picture: samples above their nearest training digits"
    )
    parser.add_argument(
        "--classification-steps", type=int, default=1000,
        help="of the classifier that learns from the pictures alone (1000; 0: leave it out)",
    )  # fmt: skip
    group = parser.add_argument_group("of a model")
    group.add_argument("--count", type=int, default=1000, help="pictures to make (1000; 0: none)")
    group.add_argument("--sampler", default="dpm_solver", choices=SAMPLERS, help="(dpm_solver)")
    group.add_argument("--steps", type=cli.positive, default=20, help="of the sampler (20)")
    group.add_argument(
        "--guidance", type=float, default=1.0, help="of a class-conditional model (1: none)"
    )
    group.add_argument(
        "--judge-labels", action="store_true",
        help="let the judge name its pictures for the classification score, not what it was told",
    )  # fmt: skip
    group.add_argument("--images", type=int, default=1000, help="for bits/dim (1000; 0: none)")
    group.add_argument("--draws", type=cli.positive, default=20, help="of t for each image (20)")
    group.add_argument("--exact", action="store_true", help="every t, instead of draws")
    args = parser.parse_args()
    for name in ("classification_steps", "count", "images"):
        if getattr(args, name) < 0:
            parser.error(f"--{name.replace('_', '-')} is below 0")
    return args


def likelihood(
    args: argparse.Namespace, unet: UNet2D, diffusion: GaussianDiffusion, data: ImageDataset
) -> dict[str, Any]:
    """The bound on test digits, after saying what it will cost."""
    runs = diffusion.T if args.exact else args.draws + 1
    seconds = seconds_per_run(unet, args.batch_size) * runs * args.images / args.batch_size
    how = "every t" if args.exact else f"{args.draws} t for each image, and t = 0"
    print(f"bits/dim of {args.images} images, {how}: about {seconds / 60:.1f} min", flush=True)
    draws = None if args.exact else args.draws
    return bits_per_dim(unet, diffusion, data, args.images, draws, args.batch_size, args.seed)


def draw(
    args: argparse.Namespace, unet: UNet2D, diffusion: GaussianDiffusion
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Pictures from the model, their labels unless the judge is to name them, and how made."""
    labels = np.arange(args.count) % unet.num_classes if unet.num_classes else None
    runs = args.steps * (2 if args.sampler == "probability_flow" else 1)
    batches = args.count / args.batch_size
    seconds = seconds_per_run(unet, args.batch_size, args.guidance) * runs * batches
    cost = "" if args.sampler in ADAPTIVE else f": about {seconds / 60:.1f} min"
    print(f"{args.count} pictures by {args.steps} {args.sampler} steps{cost}", flush=True)
    pictures = generate(
        (unet, diffusion), args.count, args.sampler, args.steps, args.seed, args.batch_size,
        labels=labels, guidance=args.guidance,
    )  # fmt: skip
    kept = None if args.judge_labels else labels
    about = {
        "model": str(args.model), "sampler": args.sampler, "steps": args.steps,
        "spacing": spacing(args.sampler), "guidance": args.guidance, "weights": "EMA",
        "seed": args.seed, "labels": "the judge's" if kept is None else "the model was told them",
    }  # fmt: skip
    return to_uint8(pictures), kept, about


def draw_nearest(path: Path, images: np.ndarray, train: np.ndarray) -> None:
    """The twelve pictures that are nearest to a training digit, and that digit below each."""
    flat = [x.reshape(len(x), -1) / 255 for x in (images, train)]
    indices, distances = nearest(*flat)
    closest = np.argsort(distances)[:12]
    pairs = np.stack([images[closest], train[indices[closest]]], axis=1)
    save_png(strip([to_float(pair) for pair in pairs]), path)


def judge(
    args: argparse.Namespace,
    network: Judge,
    images: np.ndarray,
    labels: np.ndarray | None,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Every metric of the pictures, after saying what it will cost."""
    train, test = load_mnist(args.data_dir), load_mnist(args.data_dir, "test")
    steps = args.classification_steps or None
    used = labels if steps is not None else None
    check_pictures(network, train, images, used, str(args.samples or args.model))
    reference = Reference(network, train, test)
    seconds = reference.seconds(len(images), steps)
    print(f"metrics of {len(images)} pictures: about {seconds / 60:.1f} min", flush=True)
    numbers = evaluate(reference, images, labels, about, steps)
    if args.nearest is not None:
        draw_nearest(args.nearest, images, train.images)
        print(f"wrote {args.nearest}")
    return numbers


NAMES = {
    "fid": "FID", "kid": "KID", "inception_score": "Inception Score", "precision": "precision",
    "recall": "recall", "nearest_training_distance": "nearest training digit",
    "classification_score": "classification score",
    "bits_per_dim": "bits/dim, the bound", "L_T": "L_T, what is left in x_T",
    "reconstruction": "-log p(x|z)", "kl": "KL(q(z|x) || p(z))",
    "L_between": "L_1 .. L_{T-1}, the steps", "L_0": "L_0, the decoder",
}  # fmt: skip


def table(numbers: dict[str, Any]) -> list[list[str]]:
    columns = ("value", "standard_error", "floor", "ceiling")
    return [
        [NAMES[name], *("" if row.get(c) is None else f"{row[c]:.5g}" for c in columns)]
        for name, row in numbers.items()
    ]


def protocol(numbers: dict[str, Any]) -> str:
    """What the metrics are of, and what stands beside them: a line for each kind of metric."""
    judged = {name: row for name, row in numbers.items() if "extractor" in row}
    if not judged:
        return ""
    about = next(iter(judged.values()))
    said = [
        f"{about['n']:,} pictures; extractor: {about['extractor']}; reference: "
        f"{about['reference']}; test pictures: {about['test']}"
    ]
    kinds: dict[tuple[str, str], list[str]] = {}
    for name, row in judged.items():
        kinds.setdefault((row["floor_is"], row["ceiling_is"]), []).append(NAMES[name])
    for (real, none), names in kinds.items():
        said.append(f"{', '.join(names)}:\n  real digits: {real}; no digits: {none}")
    return "\n" + "\n".join(said) + "\n"


def main() -> None:
    args = parse()
    random.check_seed(args.seed)
    for path in (args.json, args.nearest):
        if path is not None:
            cli.new_file(path, "")
    cli.start(args)
    started = time.perf_counter()
    if args.samples is not None:
        images, labels, note = read_pictures(args.samples)
        print(f"{len(images):,} pictures in {args.samples}, {note}")
        whose = "the judge's" if labels is None else "the file's"
        numbers = judge(
            args,
            load_judge(args.judge),
            images,
            labels,
            {"samples": str(args.samples), "labels": whose},
        )
    else:
        numbers = evaluate_model(args)
    head = ["", "value", "standard error", "real digits", "no digits"]
    print(f"\n{cli.markdown(head, table(numbers))}\n{protocol(numbers)}")
    if args.json is not None:
        write_json(args.json, numbers)
        print(f"wrote {args.json}")
    print(f"{(time.perf_counter() - started) / 60:.1f} min, {cli.peak_memory()}")


def evaluate_model(args: argparse.Namespace) -> dict[str, Any]:
    if not args.count and not args.images:
        raise InputError("--count 0 and --images 0 leave nothing to measure: choose one above 0.")
    network = load_judge(args.judge)
    if args.count:
        network.check_count(args.count, "--count")
    maker = load_maker(args.model) if args.model.is_dir() else None
    return evaluate_ddpm(args, network) if maker is None else evaluate_maker(args, network, maker)


def evaluate_maker(
    args: argparse.Namespace, network: Judge, maker: VAE | Generator
) -> dict[str, Any]:
    """A VAE or a GAN; only a VAE's Gaussian has a bound in bits/dim."""
    numbers = {}
    bounded = args.images and isinstance(maker, VAE)
    if bounded:
        test = load_mnist(args.data_dir, "test")
        cli.check_images(args.images, test)
    if args.count:
        about = {"model": str(args.model), "weights": "EMA", "seed": args.seed}
        about |= {"sampler": f"one pass of the {type(maker).__name__}", "labels": "the judge's"}
        pictures = to_uint8(make(maker, args.count, args.seed))
        numbers.update(judge(args, network, pictures, None, about))
    if bounded:
        numbers.update(vae_bits_per_dim(maker, test, args.images, args.draws, args.seed))
    if not numbers:
        raise InputError(f"{args.model} has no bound in bits/dim: choose --count above 0.")
    return numbers


def evaluate_ddpm(args: argparse.Namespace, network: Judge) -> dict[str, Any]:
    unet, diffusion, data = cli.load_model_and_data(args.model, args.data_dir, args.images)
    if args.images and not args.exact and args.draws >= diffusion.T:
        raise InputError(f"{args.draws} draws of {diffusion.T} steps: choose fewer, or --exact.")
    timesteps(diffusion.T, args.steps)  # refuses a wrong number before any work
    numbers = {}
    if args.count:
        numbers.update(judge(args, network, *draw(args, unet, diffusion)))
    if args.images:
        numbers.update(likelihood(args, unet, diffusion, data))
    return numbers


if __name__ == "__main__":
    sys.exit(cli.run(main))

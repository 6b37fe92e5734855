"""Evaluate a trained model, or any images of digits: FID, related metrics and bits/dim.

    minddpm evaluate --model runs/mnist
    minddpm evaluate --model runs/mnist --count 10000 --sampler ddpm --steps 250
    minddpm evaluate --model runs/vae
    minddpm evaluate --samples digits.npz --json digits.json
    minddpm evaluate --samples drawn --reference photos

Every image metric is shown beside its value for real digits and for images that are not digits;
the lines below the table name these images. For a DDPM, the table also shows the bound on the
likelihood of MNIST's test digits: L_T, the terms between L_T and L_0, and L_0. The bound is
estimated from a few t per digit; with --exact it is computed from every t. With --likelihood-steps
the likelihood is also computed by the probability-flow ODE, which is no bound but for its noise.

Models of other images, and --reference, are measured by features that need no network, and without
a bound (docs/own-images.md).
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from minddpm import parallel, random
from minddpm.baselines.gan.model import Generator
from minddpm.baselines.sampling import load_baseline, sample_baseline
from minddpm.baselines.vae.model import VAE
from minddpm.commands import cli, model_card
from minddpm.commands.digits_table import digits_table
from minddpm.commands.parser import CommandParser
from minddpm.data import ImageDataset, load_mnist, to_float, to_uint8
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.drawing import save_png, strip
from minddpm.errors import InputError
from minddpm.evaluation import own_command
from minddpm.evaluation.metrics.judge import SHIPPED, Judge, load_judge
from minddpm.evaluation.metrics.likelihood import bits_per_dim, ode_bits_per_dim, vae_bits_per_dim
from minddpm.evaluation.metrics.nearest import nearest
from minddpm.evaluation.metrics.where_bits import shares_table, where_bits
from minddpm.evaluation.report import Reference, check_samples, evaluate
from minddpm.generate import (
    ADAPTIVE,
    SAMPLERS,
    generate,
    labels_in_turn,
    own_steps,
    sampler_options,
    seconds_per_run,
)
from minddpm.models import UNet2D
from minddpm.storage.json_files import write_json


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "what to evaluate", "with --model", "files")
    what, model, files = parser.groups
    source = what.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="directory of the model")
    source.add_argument(
        "--samples", type=Path, help="an .npz file with 'images' (and 'labels'), a folder or a .zip"
    )
    what.add_argument(
        "--reference", metavar="DATA", help="real images: what train_mnist.py's --data takes"
    )
    model.add_argument("--count", type=int, default=1000, help="samples to draw (1000; 0: none)")
    model.add_argument(
        "--sampler", choices=SAMPLERS, help="default: dpm_solver, or that of a distilled model"
    )
    model.add_argument("--steps", type=cli.positive, help="default: 20, or a distilled model's")
    model.add_argument(
        "--guidance", type=float, default=1.0, help="strength of the conditioning (1: no guidance)"
    )
    model.add_argument(
        "--seed", type=int, default=0, help="random seed of the samples, t and the noise (0)"
    )
    model.add_argument(
        "--images", type=int, default=1000, help="test digits for bits/dim (1000; 0: none)"
    )
    model.add_argument("--exact", action="store_true", help="bits/dim from every t")
    cli.add_data_dir(files)
    files.add_argument("--json", type=Path, help="also write the numbers to this file")
    files.add_argument(
        "--nearest", type=Path, help="PNG file: samples above their nearest training digits"
    )
    cli.add_machine(parser)
    rare = parser.rare
    rare.add_argument("--inception", type=Path, help="weights for --reference (docs/own-images.md)")
    rare.add_argument("--image-size", metavar="N or HxW", help="fit samples and reference to it")
    rare.add_argument("--judge", type=Path, default=SHIPPED, help="a classifier.safetensors")
    rare.add_argument(
        "--judge-labels", action="store_true",
        help="classification score: use the judge's labels, not those given to the model",
    )  # fmt: skip
    rare.add_argument(
        "--classification-steps", type=int, default=1000,
        help="training steps of a classifier on the samples alone (1000; 0: no classifier)",
    )  # fmt: skip
    rare.add_argument(
        "--draws", type=cli.positive, default=20, help="values of t per image for bits/dim (20)"
    )
    rare.add_argument("--where-bits", action="store_true", help="split the bound by noise and grey")
    rare.add_argument(
        "--likelihood-steps", type=int, default=0,
        help="steps of the ODE for the likelihood of the same digits, such as 20 (0: none)",
    )  # fmt: skip
    rare.add_argument("--batch-size", type=cli.positive, default=125, help="images per batch (125)")
    args = parser.parse_args()
    for name in ("classification_steps", "count", "images", "likelihood_steps"):
        if getattr(args, name) < 0:
            parser.error(f"--{name.replace('_', '-')} is below 0")
    if (args.likelihood_steps or args.where_bits) and not (args.model and args.images):
        parser.error("--likelihood-steps and --where-bits need --model and --images above 0")
    return args


def likelihood(
    args: argparse.Namespace, unet: UNet2D, diffusion: GaussianDiffusion, data: ImageDataset
) -> dict[str, Any]:
    """Print the expected time and return the bound on test digits."""
    runs = diffusion.T if args.exact else args.draws + 1
    seconds = seconds_per_run(unet, args.batch_size) * runs * args.images / args.batch_size
    how = "every t" if args.exact else f"{args.draws} t per image, and t = 0"
    print(f"bits/dim of {args.images} images, {how}: about {seconds / 60:.1f} min", flush=True)
    draws = None if args.exact else args.draws
    return bits_per_dim(
        unet, diffusion, data, args.images, draws, args.batch_size, args.seed, parallel.world()
    )


def ode_likelihood(
    args: argparse.Namespace, unet: UNet2D, diffusion: GaussianDiffusion, data: ImageDataset
) -> dict[str, Any]:
    """Print the expected time and return the likelihood of test digits by the ODE."""
    # Two ways of dequantisation, four slopes in a step; a backward pass takes as long as two runs.
    runs = 2 * 4 * 3 * args.likelihood_steps
    seconds = seconds_per_run(unet, args.batch_size) * runs * args.images / args.batch_size
    print(
        f"likelihood of {args.images} images, {args.likelihood_steps} steps of the ODE: "
        f"about {seconds / 60:.1f} min",
        flush=True,
    )
    steps = args.likelihood_steps
    return ode_bits_per_dim(unet, diffusion, data, args.images, steps, args.batch_size, args.seed)


def choose_sampler(args: argparse.Namespace, diffusion: GaussianDiffusion) -> None:
    """Set args.sampler and args.steps where they are None: to those of a distilled model."""
    own = diffusion.sampling
    if args.sampler is None:
        args.sampler = own.sampler if own and own.steps else "dpm_solver"
    args.steps = args.steps or own_steps(diffusion, args.sampler, None) or 20


def draw(
    args: argparse.Namespace,
    unet: UNet2D,
    diffusion: GaussianDiffusion,
    labels: np.ndarray | None = None,
    world: parallel.Alone | None = None,
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Return uint8 samples, their labels (None with --judge-labels), and the sampling options.

    labels: of the samples of a class-conditional model; None: all classes equally often. world:
    the ranks that draw them; None: this one alone.
    """
    if labels is None and unet.num_classes:
        labels = labels_in_turn(unet, args.count)
    runs = args.steps * (2 if args.sampler == "probability_flow" else 1)
    batches = args.count / args.batch_size
    seconds = seconds_per_run(unet, args.batch_size, args.guidance) * runs * batches
    cost = "" if args.sampler in ADAPTIVE else f": about {seconds / 60:.1f} min"
    print(f"{args.count} samples in {args.steps} {args.sampler} steps{cost}", flush=True)
    samples = generate(
        (unet, diffusion), args.count, args.sampler, args.steps, args.seed, args.batch_size,
        labels=labels, guidance=args.guidance, world=world,
    )  # fmt: skip
    if args.judge_labels:
        labels = None
    _, options = sampler_options(diffusion, args.sampler)
    about = {
        "model": str(args.model), "sampler": args.sampler, "steps": args.steps,
        "spacing": str(options["spacing"]), "guidance": args.guidance, "weights": "EMA",
        "seed": args.seed, "labels": "the judge's" if labels is None else "given to the model",
    }  # fmt: skip
    return to_uint8(samples), labels, about


def draw_nearest(path: Path, images: np.ndarray, train: np.ndarray) -> None:
    """Draw the twelve images that are nearest to a training digit, each above that digit."""
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
    """Print the expected time and return every metric of the images, in rank 0."""
    if parallel.world().rank > 0:
        return {}
    train, test = load_mnist(args.data_dir), load_mnist(args.data_dir, "test")
    steps = args.classification_steps or None
    used = labels if steps is not None else None
    check_samples(network, train, images, used, str(args.samples or args.model))
    reference = Reference(network, train, test)
    seconds = reference.seconds(len(images), steps)
    print(f"metrics of {len(images)} images: about {seconds / 60:.1f} min", flush=True)
    numbers = evaluate(reference, images, labels, about, steps)
    if args.nearest is not None:
        draw_nearest(args.nearest, images, train.images)
        print(f"wrote {args.nearest}")
    return numbers


def main() -> None:
    args = parse()
    random.check_seed(args.seed)
    for path in (args.json, args.nearest):
        if path is not None:
            cli.new_file(path, "")
    cli.start(args)
    started = time.perf_counter()
    if args.reference is not None or own_command.data_of(args.model) is not None:
        numbers, shown = evaluate_own_images(args)
    elif args.inception is not None or args.image_size is not None:
        raise InputError("--inception and --image-size are for --reference: give real images, too.")
    elif args.samples is not None:
        images, labels, note = own_command.read_samples(args.samples)
        print(f"{len(images):,} images in {args.samples}, {note}")
        about = {
            "samples": str(args.samples),
            "labels": "the judge's" if labels is None else "the file's",
        }
        numbers = judge(args, load_judge(args.judge), images, labels, about)
        shown = digits_table(numbers)
    else:
        numbers = evaluate_model(args)
        shown = digits_table(numbers)
    if parallel.world().rank > 0:
        return
    print(f"\n{shown}")
    if args.json is not None:
        write_json(args.json, numbers)
        print(f"wrote {args.json}")
    if args.model is not None:
        model_card.update_card(args.model, shown, numbers)
    print(f"{(time.perf_counter() - started) / 60:.1f} min, {cli.peak_memory()}")


def evaluate_own_images(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Return the metrics of images that are not MNIST's, and the table of them.

    One rank computes them.
    """
    if parallel.world().rank > 0:
        return {}, ""

    def draw_own(
        unet: UNet2D, diffusion: GaussianDiffusion, labels: np.ndarray | None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        choose_sampler(args, diffusion)
        timesteps(diffusion.T, args.steps)  # raises before any work if the number is invalid
        images, _, about = draw(args, unet, diffusion, labels)
        return images, about

    numbers, images, dataset = own_command.evaluate(args, draw_own)
    if args.nearest is not None:
        draw_nearest(args.nearest, images, dataset.images)
        print(f"wrote {args.nearest}")
    return numbers, own_command.text(numbers)


def evaluate_model(args: argparse.Namespace) -> dict[str, Any]:
    """Return the metrics of the DDPM, VAE or GAN in --model."""
    if not args.count and not args.images:
        raise InputError(
            "--count 0 and --images 0 leave nothing to measure: set one of them above 0."
        )
    network = load_judge(args.judge)
    if args.count:
        network.check_count(args.count, "--count")
    baseline = load_baseline(args.model) if args.model.is_dir() else None
    if baseline is None:
        return evaluate_ddpm(args, network)
    return evaluate_baseline(args, network, baseline)


def evaluate_baseline(
    args: argparse.Namespace, network: Judge, baseline: VAE | Generator
) -> dict[str, Any]:
    """Return the metrics of a VAE or a GAN; only a Gaussian VAE has a bound in bits/dim.

    One rank computes them.
    """
    if parallel.world().rank > 0:
        return {}
    cli.check_trained_on_mnist(args.model)
    numbers = {}
    has_bound = args.images and isinstance(baseline, VAE)
    if has_bound:
        test = load_mnist(args.data_dir, "test")
        cli.check_images(args.images, test)
    if args.count:
        about = {"model": str(args.model), "weights": "EMA", "seed": args.seed}
        about |= {"sampler": f"one pass of the {type(baseline).__name__}", "labels": "the judge's"}
        samples = to_uint8(sample_baseline(baseline, args.count, args.seed))
        numbers.update(judge(args, network, samples, None, about))
    if has_bound:
        numbers.update(vae_bits_per_dim(baseline, test, args.images, args.draws, args.seed))
    if not numbers:
        raise InputError(f"{args.model} has no bound in bits/dim: set --count above 0.")
    return numbers


def evaluate_ddpm(args: argparse.Namespace, network: Judge) -> dict[str, Any]:
    """Return the metrics of a DDPM's samples and its bound in bits/dim."""
    unet, diffusion, data = cli.load_model_and_data(args.model, args.data_dir, args.images)
    if args.images and not args.exact and args.draws >= diffusion.T:
        raise InputError(
            f"{args.draws} draws of t are not fewer than T = {diffusion.T}: reduce --draws or use "
            "--exact."
        )
    choose_sampler(args, diffusion)
    timesteps(diffusion.T, args.steps)  # raises before any work if the number is invalid
    samples = draw(args, unet, diffusion, world=parallel.world()) if args.count else None
    bound = {}
    if args.images:
        bound = likelihood(args, unet, diffusion, data)
    # All else is last, because rank 0 does it alone.
    if parallel.world().rank > 0:
        return {}
    if args.likelihood_steps:
        bound |= ode_likelihood(args, unet, diffusion, data)
    if args.where_bits:
        shares = where_bits(unet, diffusion, data, args.images, args.batch_size, args.seed)
        print(f"\n{cli.markdown(*shares_table(shares))}\n")
    return (judge(args, network, *samples) if samples else {}) | bound

"""Draw samples from a trained model: a run directory or a diffusers pipeline with a UNet2DModel.

minddpm sample --model runs/mnist --sampler dpm_solver --steps 20
minddpm sample --model runs/digits --label 7 --guidance 2
minddpm sample --model runs/pets --label cat
"""

import argparse
from pathlib import Path

import numpy as np

import minddpm
from minddpm import parallel, random
from minddpm.commands import cli
from minddpm.commands.classes import class_grid, find_label, labels_of_all_classes
from minddpm.commands.parser import CommandParser
from minddpm.data import to_uint8
from minddpm.data.class_names import listing
from minddpm.data.image_archive import IMAGES, LABELS
from minddpm.diffusion.sampling.respacing import is_respacing
from minddpm.diffusion.scheduler_file import load_diffusion
from minddpm.drawing import save_png
from minddpm.errors import InputError
from minddpm.generate import (
    ADAPTIVE,
    SAMPLERS,
    generate,
    number_of_steps,
    own_steps,
    sampler_options,
    seconds_per_run,
)
from minddpm.storage.atomic import atomic_write, check_writable


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "sampling", "files")
    sampling, files = parser.groups
    cli.add_model(sampling)
    sampling.add_argument("--count", type=cli.positive, default=64, help="samples to draw (64)")
    sampling.add_argument(
        "--sampler", choices=SAMPLERS,
        help=f"{', '.join(SAMPLERS)} (default: the one saved with the model, or ddpm)",
    )  # fmt: skip
    sampling.add_argument(
        "--steps",
        type=int,
        help="sampling steps (default: those of a distilled model; ddpm: all T; others: 50)",
    )
    sampling.add_argument(
        "--label",
        help="a class of a class-conditional model: its name, or its number if no name is a number "
        "(default: one row per class)",
    )
    sampling.add_argument(
        "--guidance", type=float, default=1.0, help="strength of the conditioning (1: no guidance)"
    )
    sampling.add_argument("--seed", type=int, default=0, help="random seed (0)")
    files.add_argument(
        "--out", type=Path,
        help="PNG file for the grid (default: samples.png here, or a free name)",
    )  # fmt: skip
    files.add_argument(
        "--npz", type=Path,
        help="also write all samples, uint8 [N, H, W], as 'images', and 'labels'",
    )  # fmt: skip
    cli.add_machine(parser)
    rare = parser.rare
    rare.add_argument(
        "--spacing",
        help="which timesteps: leading, trailing, linspace, log_snr; or instead of --steps, as in "
        "improved-diffusion, ddim25 or sections such as 10,15,20",
    )
    rare.add_argument("--eta", type=float, help="noise of ddim: 0 (none, default) to 1")
    rare.add_argument("--batch-size", type=cli.positive, default=64, help="samples per batch (64)")
    return parser.parse_args()


def choose_labels(args: argparse.Namespace, unet: minddpm.UNet2D) -> np.ndarray | None:
    """Return the label of each sample, or None if the model has no classes."""
    if args.label is not None:
        return np.full(args.count, find_label(unet, args.label, args.model))
    if not unet.num_classes and args.guidance != 1:
        raise InputError(
            f"{args.model} is not class-conditional: omit --guidance, or train with "
            "--class-conditional."
        )
    if unet.label_names is not None:
        print(f"one row per class: {listing(unet.label_names)}")
    return labels_of_all_classes(unet, args.count)


def main() -> None:
    args = parse()
    random.check_seed(args.seed)
    for path in (args.out, args.npz):
        cli.refuse_existing(path)
    out = args.out or cli.free_name(Path("samples.png"))
    if args.npz is not None and args.npz.resolve() == out.resolve():
        raise InputError(f"--out and --npz are both {out}: choose two names.")
    cli.start(args)
    unet = minddpm.UNet2D.from_pretrained(args.model)
    diffusion = load_diffusion(args.model)
    channels = unet.config["in_channels"], unet.config["out_channels"]
    each = 2 if diffusion.variance == "learned_range" else 1
    if channels not in ((1, each), (3, 3 * each)):
        raise InputError(
            f"{args.model} maps {channels[0]} channels to {channels[1]} with variance "
            f"{diffusion.variance}: choose a model of grey or colour images, with twice as many "
            "output channels if the variance is learned_range."
        )
    labels = choose_labels(args, unet)
    sampler, options = sampler_options(diffusion, args.sampler, args.spacing, args.eta)
    steps = args.steps
    if steps is None:
        steps = own_steps(diffusion, sampler, args.spacing)
    if steps is None and sampler != "ddpm" and not is_respacing(args.spacing or ""):
        steps = min(50, diffusion.T)
    number = number_of_steps(diffusion, steps, options)  # checks them before timing the model

    batch = min(args.batch_size, args.count)
    for path in filter(None, (out, args.npz)):
        check_writable(path)
    each_run = seconds_per_run(unet, batch, args.guidance) * args.count / batch
    if sampler in ADAPTIVE:
        print(f"{args.count} samples with {sampler}: {each_run:.1f} s per model evaluation")
    else:
        seconds = each_run * number * (2 if sampler == "probability_flow" else 1)
        print(f"{args.count} samples in {number} {sampler} steps: about {seconds / 60:.1f} min")
    samples = generate(
        (unet, diffusion), args.count, sampler, steps, args.seed, args.batch_size,
        labels=labels, guidance=args.guidance, spacing=args.spacing, eta=args.eta,
        world=parallel.world(),
    )  # fmt: skip
    if parallel.world().rank > 0:
        return
    save_png(class_grid(samples, labels if args.label is None else None), out)
    files = str(out)
    if args.npz is not None:
        pixels = to_uint8(samples)
        arrays = {IMAGES: pixels[..., 0] if pixels.shape[3] == 1 else pixels}
        if labels is not None:
            arrays[LABELS] = labels
        with atomic_write(args.npz) as file:
            np.savez_compressed(file, **arrays)
        files += f" and {args.npz}"
    print(f"wrote {files}")

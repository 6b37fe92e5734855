"""The part of examples/evaluate.py for images that are not MNIST's: own folders, own models."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from minddpm.baselines.sampling import load_baseline, sample_baseline
from minddpm.commands import cli
from minddpm.data import ImageDataset, load_images, to_uint8
from minddpm.data.fit import Size, fit, parse_size
from minddpm.data.folder import load_image_files
from minddpm.data.image_archive import read_images
from minddpm.data.image_files import ImageFiles, open_file
from minddpm.data.named import NAMES as NAMED
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.scheduler_file import load_diffusion
from minddpm.errors import InputError
from minddpm.evaluation.metrics.inception import Inception
from minddpm.evaluation.metrics.wavelets import Wavelets
from minddpm.evaluation.own_images import Extractor, OwnReference, evaluate_own
from minddpm.generate import image_size, labels_in_turn
from minddpm.models import UNet2D
from minddpm.training.run_directory import RUN, RunDirectory

# Returns the samples of a DDPM, uint8, and how they were made, given the labels (or None).
Draw = Callable[[UNet2D, GaussianDiffusion, np.ndarray | None], tuple[np.ndarray, dict[str, Any]]]
NAMES = {"fid": "FID", "kid": "KID", "precision": "precision", "recall": "recall"}


class Evaluation(NamedTuple):
    """The metrics by name, the samples, and the images with which they were compared."""

    numbers: dict[str, dict[str, Any]]
    images: np.ndarray
    dataset: ImageDataset


def data_of(model: Path | None) -> str | None:
    """Return the images in a model's run.json; None: those of MNIST, or there is no such file."""
    if model is None or not (model / RUN).is_file():
        return None
    options, _ = RunDirectory(model).read_info()
    data = options.get("image_folder") or options.get("data")
    return None if data == "mnist" else data


def evaluate(args: argparse.Namespace, draw: Draw) -> Evaluation:
    """Compare the samples in args.samples, or of args.model, with args.reference or its own data.

    Raises InputError for unequal sizes, too few images, and data that is not there.
    """
    size = None if args.image_size is None else parse_size(args.image_size)
    if args.samples is not None:
        images, _, note = read_samples(args.samples, size)
        print(f"{len(images):,} images in {args.samples}, {note}")
        dataset = read_reference(args.reference, images.shape[1:3], size, args.data_dir)
        images, dataset = same_channels(images, dataset)
        reference = OwnReference(extractor(args), dataset, len(images))
        return Evaluation(
            evaluate_own(reference, images, {"samples": str(args.samples)}), images, dataset
        )
    return _evaluate_model(args, draw)


def extractor(args: argparse.Namespace) -> Extractor:
    """Return what computes the features: Inception if its weights are given."""
    return Wavelets() if args.inception is None else Inception(args.inception)


def _evaluate_model(args: argparse.Namespace, draw: Draw) -> Evaluation:
    data = args.reference or data_of(args.model)
    if args.reference is None and data not in NAMED and not Path(data).exists():
        raise InputError(f"{data}, with the images of the run, is gone: give --reference.")
    baseline = load_baseline(args.model) if args.model.is_dir() else None
    if baseline is None:
        unet, diffusion = UNet2D.from_pretrained(args.model).eval(), load_diffusion(args.model)
        size, channels = image_size(unet), unet.config["in_channels"]
    else:
        size, channels = (baseline.config["size"],) * 2, 1
    dataset = read_reference(data, size, size, args.data_dir, channels)
    reference = OwnReference(extractor(args), dataset, args.count)
    args.count = reference.n
    if baseline is None:
        images, about = draw(unet, diffusion, _labels(unet, reference))
    else:
        images = to_uint8(sample_baseline(baseline, args.count, args.seed))
        about = {"model": str(args.model), "weights": "EMA", "seed": args.seed}
    return Evaluation(evaluate_own(reference, images, about), images, dataset)


def _labels(unet: UNet2D, reference: OwnReference) -> np.ndarray | None:
    """Return a label for each sample: as frequent as in the reference, if it has the classes."""
    if not unet.num_classes:
        return None
    if reference.dataset.num_classes == unet.num_classes:
        return reference.dataset.labels[reference.held]
    return labels_in_turn(unet, reference.n)


def read_samples(
    place: Path, size: Size | None = None
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Return uint8 [n, H, W, C] of an .npz, a folder or a .zip, labels (or None), and a note.

    size: of the images; None: what they have. Raises InputError if it is not the same for all.
    """
    if place.suffix.lower() == ".npz":
        images, labels, note = read_images(place)
        return fit(ImageDataset(images, None, str(place)), size, None).images, labels, note
    if not place.exists():
        raise InputError(f"{place} does not exist: give a folder of images, a .zip or an .npz.")
    images = load_image_files(place, size or common_size(ImageFiles(place))).images
    H, W, C = images.shape[1:]
    return images, None, f"{H} x {W} x {C}"


def common_size(files: ImageFiles) -> Size:
    """Return (height, width) of all images. Raises InputError if it differs, or there is none."""
    found: dict[Size, str] = {}
    for name in files.names:
        try:
            with Image.open(open_file(files.place, name)) as image:
                found.setdefault((image.height, image.width), name)
        except (OSError, ValueError, SyntaxError):
            continue  # decoding names it
        if len(found) > 1:
            (H, W), (h, w) = found
            raise InputError(
                f"{files.place} has images of {H} x {W} ({found[H, W]}) and of {h} x {w} "
                f"({found[h, w]}): give images of one size, or choose one with --image-size."
            )
    if not found:
        raise InputError(f"{files.place} holds no image: give a folder with PNG or other images.")
    return next(iter(found))


def read_reference(
    data: str, shown: Size, size: Size | None, data_dir: Path | None, channels: int | None = None
) -> ImageDataset:
    """Return the images of a data set, folder, .zip or .npz in the size of the samples.

    shown: the size of the samples, to which image files are fitted. size: that to which all others
    are fitted, too; None: they must have it. Raises InputError if they have not.
    """
    of_files = Path(data).is_dir() or Path(data).suffix.lower() == ".zip"
    dataset = load_images(data, shown if of_files else size, channels, data_dir)
    H, W = dataset.images.shape[1:3]
    if tuple(shown) != (H, W):
        raise InputError(
            f"{data} has images of {H} x {W}, but the samples have {shown[0]} x {shown[1]}: give "
            "images of one size, or choose one with --image-size."
        )
    return dataset


def same_channels(images: np.ndarray, dataset: ImageDataset) -> tuple[np.ndarray, ImageDataset]:
    """Return both in colour if one is: samples that lost all colour must not be forgiven it."""
    if images.shape[3] == dataset.images.shape[3]:
        return images, dataset
    print("grey images are compared with colour images, as colour images without colour")
    if images.shape[3] == 1:
        return np.repeat(images, 3, axis=3), dataset
    coloured = np.repeat(dataset.images, 3, axis=3)
    return images, replace(dataset, images=coloured, mapping=None, checksum=None)


def text(numbers: dict[str, dict[str, Any]]) -> str:
    """Return the table of the metrics, and what was compared with what."""
    first = numbers["fid"]
    head = ["", "value", "standard error", *first["scale"]]
    rows = []
    for name, row in numbers.items():
        values = [row["value"], row["standard_error"], *row["scale"].values()]
        rows.append([NAMES[name], *("" if x is None else f"{x:.4g}" for x in values)])
    return (
        f"{cli.markdown(head, rows)}\n\n{first['n']:,} samples, compared with "
        f"{first['compared']:,} images of the reference ({first['reference']}). The other columns: "
        f"{first['n']:,} other images of the reference, as they are and made worse.\n"
        f"Features: {first['extractor']}. {first['note']}"
    )

"""The options that choose the UNet of a training: a preset, a file, single values, a trained model.

The images decide its size, its channels and its classes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import minddpm
from minddpm.commands.parser import CommandParser
from minddpm.data import ImageDataset
from minddpm.errors import InputError, naming
from minddpm.models import UNet2D
from minddpm.models.config import LABEL_NAMES, complete_config
from minddpm.models.cost import unet_cost
from minddpm.models.pretrained import CONFIG, model_folder, read_config_file

TINY: dict[str, Any] = {**minddpm.SMALL, "block_out_channels": (16, 32, 32), "layers_per_block": 1}
AT_64: dict[str, Any] = {
    **minddpm.SMALL,
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 64, 128, 192),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}
PRESETS = {
    "one-block": minddpm.ONE_BLOCK,
    "small": minddpm.SMALL,
    "paper": minddpm.PAPER,
    "tiny": TINY,
    "cifar10": minddpm.PAPER,
    "64px": AT_64,
}
# Options with default None that change the preset.
OPTIONS: dict[str, Any] = dict.fromkeys(
    ("config", "init_from", "widths", "blocks", "attention", "norm_groups")
)
TYPES: dict[str, tuple[type, ...]] = {
    "config": (dict,), "init_from": (str,), "widths": (str,), "blocks": (int,), "attention": (str,),
    "norm_groups": (int,),
}  # fmt: skip
OF_THE_DATA = ("sample_size", "in_channels", "out_channels", "num_class_embeds", LABEL_NAMES)
HEADS = ("conv_in", "conv_out", "class_embedding")  # what depends on channels and classes


def add_model(parser: CommandParser, network: Any, count: Any) -> None:
    """Add the flags of OPTIONS, some of them to a group; count: the type of a number above 0."""
    network.add_argument(
        "--config", type=_config_file, metavar="FILE", help="a UNet2DModel's config.json"
    )
    network.add_argument(
        "--init-from", type=_directory, metavar="DIR", help="fine-tune the model in this directory"
    )
    network.add_argument(
        "--widths", metavar="N,N,..", help="channels of each level, such as 32,64,128"
    )
    rare = parser.rare
    rare.add_argument("--blocks", type=count, help="residual blocks of each level")
    rare.add_argument(
        "--attention",
        help="heights in pixels of the levels with attention, such as 14,7, or none "
        "(default with --widths: the lowest level)",
    )
    rare.add_argument("--norm-groups", type=count, help="groups of each group normalisation")


def _config_file(text: str) -> dict[str, Any]:
    """Return the configuration in a file, without what the images decide; an argparse type."""
    try:
        return _read_architecture(Path(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _read_architecture(path: Path) -> dict[str, Any]:
    config = read_config_file(path)
    kept = {name: value for name, value in config.items() if name not in OF_THE_DATA}
    with naming(path):
        complete = complete_config(kept)
    # As run.json gives it back, which is compared with it.
    return json.loads(json.dumps({k: v for k, v in complete.items() if k not in OF_THE_DATA}))


def _directory(text: str) -> str:
    return str(Path(text).resolve())  # --resume may run elsewhere


def choose_architecture(options: dict[str, Any], preset: dict[str, Any], H: int) -> dict[str, Any]:
    """Return a configuration without what the images decide; H: their height.

    The configuration of --init-from is stored in options, as --resume does not need the directory.
    Raises InputError for options that contradict each other, and for impossible values.
    """
    names = ("widths", "blocks", "attention", "norm_groups")
    single = [name for name in names if options[name] is not None]
    if options["init_from"] and options["config"] is None:
        if single:
            raise InputError(
                f"--init-from has a model of its own: leave out --{single[0].replace('_', '-')}."
            )
        folder = model_folder(Path(options["init_from"]))
        options["config"] = _read_architecture(folder / CONFIG)
    config = complete_config(preset if options["config"] is None else options["config"])
    if options["widths"] is not None:
        config["block_out_channels"] = _numbers("widths", options["widths"])
    if options["blocks"]:
        config["layers_per_block"] = options["blocks"]
    if options["norm_groups"]:
        config["norm_num_groups"] = options["norm_groups"]
    if options["widths"] is not None or options["attention"] is not None:
        levels = len(config["block_out_channels"])
        with_attention = _levels_with_attention(options["attention"], H, levels)
        kinds = ["Attn" if i in with_attention else "" for i in range(levels)]
        config["down_block_types"] = [f"{kind}DownBlock2D" for kind in kinds]
        config["up_block_types"] = [f"{kind}UpBlock2D" for kind in kinds[::-1]]
    return config


def _numbers(name: str, text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isascii() and word.isdecimal() and 0 < len(word) < 6 for word in words):
        raise InputError(f"--{name} {text!r} is no list of numbers: give some such as 32,64,128.")
    return [int(word) for word in words]


def _levels_with_attention(text: str | None, H: int, levels: int) -> set[int]:
    heights = [H >> level for level in range(levels)]
    if text is None:
        return {levels - 1}
    wanted = [] if text == "none" else _numbers("attention", text)
    for height in wanted:
        if height not in heights:
            raise InputError(
                f"--attention {text}: no level of images of height {H} has the height {height}: "
                f"choose among {', '.join(map(str, heights))}, or none."
            )
    return {heights.index(height) for height in wanted}


def build_unet(
    architecture: dict[str, Any], dataset: ImageDataset, learned_variance: bool, classes: bool,
    batch_size: int,
) -> UNet2D:  # fmt: skip
    """Return the UNet for these images, with new weights; print what it costs before making it.

    classes: whether it is class-conditional. Raises InputError if the images do not fit.
    """
    _, H, W, C = dataset.images.shape
    config = {
        **architecture,
        "sample_size": H if H == W else (H, W),
        "in_channels": C,
        "out_channels": 2 * C if learned_variance else C,
    }
    if classes and dataset.labels is not None:
        config["num_class_embeds"] = dataset.num_classes + 1  # the last means "no class"
        if dataset.label_names is not None:
            config[LABEL_NAMES] = dataset.label_names
    cost = unet_cost(H, W, **config)
    print(
        f"model: {cost.parameters:,} parameters; a training step of {batch_size} images of "
        f"{H} x {W} x {C} takes {cost.training_flops(batch_size) / 1e9:,.3g} GFLOP and about "
        f"{cost.training_bytes(batch_size) / 1e9:.2g} GB of memory beyond the program's own",
        flush=True,
    )
    unet = UNet2D(**config)
    unet.check_image_size(H, W)
    return unet


def initialise(unet: UNet2D, directory: str) -> None:
    """Copy the weights of a trained model into a UNet, and print which parts it could not take.

    A part that depends on the channels or the classes starts anew if it has another shape. The
    embedding of other classes starts as the one that means "no class".
    Raises InputError if another part has another shape.
    """
    trained = UNet2D.from_pretrained(directory)
    weights, new = dict(trained.named_parameters()), []
    same_classes = (trained.num_classes, trained.label_names) == (
        unet.num_classes, unet.label_names
    )  # fmt: skip
    for name, parameter in unet.named_parameters():
        part = name.partition(".")[0]
        source = weights.get(name)
        if part == "class_embedding" and (source is None or not same_classes):
            parameter.data[...] = 0 if source is None else source.data[-1]
            new.append(part)
        elif source is not None and source.data.shape == parameter.data.shape:
            parameter.data[...] = source.data
        elif part in HEADS:
            new.append(part)
        else:
            raise InputError(
                f"{directory} is another model than that of this run ({name} differs): leave out "
                "--init-from, or give the directory of before."
            )
    dropped = ["class_embedding"] if trained.num_classes and not unet.num_classes else []
    what = [f"{part} starts anew" for part in dict.fromkeys(new)]
    what += [f"{part} is left out" for part in dropped]
    sentence = "; ".join([f"starting from the weights of {directory}", *what])
    print(sentence, flush=True)

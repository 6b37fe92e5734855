"""The UNet's configuration: diffusers' UNet2DModel keys, their defaults, and what is supported."""

import reprlib
from collections.abc import Callable
from typing import Any

from minddpm.errors import InputError

# Every key of UNet2DModel with its default, which applies if config.json lacks the key.
DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,  # diffusers uses this key only for learned time embeddings
}

# The names of the classes, one fewer than num_class_embeds. The key is minddpm's own: diffusers
# stores keys that begin with an underscore, but does not pass them to the model.
LABEL_NAMES = "_label_names"

# Keys that have a fixed list of supported values.
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D", None),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "downsample_padding": (0, 1),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
}


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


# The largest number of channels, layers, pixels in a row, ...: a file may come from a stranger.
LARGEST = 2**16


def _is_count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and 1 <= x <= LARGEST


def _is_list(x: Any) -> bool:
    return isinstance(x, (list, tuple)) and len(x) > 0


# For every other key: a test of its value, and a description of the valid values.
COUNT = (_is_count, f"an integer from 1 to {LARGEST}")
OPTIONAL_COUNT = (lambda x: x is None or _is_count(x), f"an integer from 1 to {LARGEST}, or null")
FLAG = (lambda x: isinstance(x, bool), "true or false")
NAMES = (lambda x: _is_list(x) and all(isinstance(b, str) for b in x), "a list of block types")
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "sample_size": (
        lambda x: (
            x is None or _is_count(x) or (_is_list(x) and len(x) == 2 and all(map(_is_count, x)))
        ),
        f"an integer from 1 to {LARGEST}, a pair of them, or null",
    ),
    "in_channels": COUNT,
    "out_channels": COUNT,
    "center_input_sample": FLAG,
    "time_embedding_dim": OPTIONAL_COUNT,
    "freq_shift": (_is_number, "a number"),
    "flip_sin_to_cos": FLAG,
    "down_block_types": NAMES,
    "up_block_types": NAMES,
    "block_out_channels": (
        lambda x: _is_list(x) and all(map(_is_count, x)),
        f"a list of integers from 1 to {LARGEST}",
    ),
    "layers_per_block": COUNT,
    "mid_block_scale_factor": (lambda x: _is_number(x) and x > 0, "a number above 0"),
    "dropout": (lambda x: _is_number(x) and 0 <= x < 1, "a number from 0 to below 1"),
    "attention_head_dim": OPTIONAL_COUNT,
    "norm_num_groups": COUNT,
    "attn_norm_num_groups": OPTIONAL_COUNT,
    "norm_eps": (lambda x: _is_number(x) and x > 0, "a number above 0"),
    "add_attention": FLAG,
    "num_class_embeds": OPTIONAL_COUNT,
}

DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D")

# The model for MNIST that is timed and checked throughout: 1,623,169 parameters.
SMALL: dict[str, Any] = {
    "sample_size": 28,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "norm_num_groups": 8,
}

# The same with one residual block per resolution instead of two: 1,112,801 parameters, and about
# twice as many training steps in a minute, which digits gain more from.
ONE_BLOCK: dict[str, Any] = {**SMALL, "layers_per_block": 1}

# The CIFAR-10 model of Ho et al. 2020, appendix B, under diffusers' names (these are the keys of
# google/ddpm-cifar10-32): 35.7M parameters.
PAPER: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": None,
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "dropout": 0.1,
}


def complete_config(given: dict[str, Any]) -> dict[str, Any]:
    """Return `given` with the defaults filled in. Raises InputError for unsupported values."""
    if unknown := sorted(set(given) - {*DEFAULTS, LABEL_NAMES}):
        raise InputError(
            f"unknown UNet configuration key {reprlib.repr(unknown[0])}: the keys are those of "
            f"diffusers' UNet2DModel ({', '.join(DEFAULTS)})."
        )
    config = {**DEFAULTS, **given}
    for key, choices in SUPPORTED.items():
        if not any(config[key] == choice for choice in choices):
            raise InputError(
                f"{key}={reprlib.repr(config[key])} is not supported: choose "
                f"{' or '.join(repr(c) for c in choices)}."
            )
    for key, (is_right, wanted) in KINDS.items():
        if not is_right(config[key]):
            raise InputError(f"{key}={reprlib.repr(config[key])} is invalid: give {wanted}.")
    for key, choices in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
        config[key] = tuple(config[key])
        for block in config[key]:
            if block not in choices:
                raise InputError(
                    f"{key} has the unsupported block {reprlib.repr(block)}: choose "
                    f"{' or '.join(choices)}."
                )
    config["block_out_channels"] = tuple(config["block_out_channels"])
    levels = len(config["block_out_channels"])
    if not len(config["down_block_types"]) == len(config["up_block_types"]) == levels:
        raise InputError(
            f"down_block_types ({len(config['down_block_types'])}), up_block_types "
            f"({len(config['up_block_types'])}) and block_out_channels ({levels}) "
            "must have the same length."
        )
    groups = config["norm_num_groups"]
    for C in config["block_out_channels"]:
        if C % groups:
            raise InputError(
                f"norm_num_groups={groups} does not divide block_out_channels entry {C}: "
                "choose a divisor of all of them."
            )
    groups, C = config["attn_norm_num_groups"], config["block_out_channels"][-1]
    if groups is not None and C % groups:
        raise InputError(
            f"attn_norm_num_groups={groups} does not divide the {C} channels of the lowest level: "
            "choose a divisor."
        )
    if LABEL_NAMES in config:
        config[LABEL_NAMES] = _checked_names(config[LABEL_NAMES], config["num_class_embeds"])
    return config


def _checked_names(names: Any, embeddings: int | None) -> tuple[str, ...]:
    if not _is_list(names) or not all(isinstance(x, str) and x.isprintable() for x in names):
        raise InputError(f"{LABEL_NAMES}={names!r} is invalid: give a list of printable names.")
    different = len(set(names))
    if different != len(names) or different + 1 != embeddings:
        raise InputError(
            f"{LABEL_NAMES} has {different} different names of {len(names)} for "
            f"num_class_embeds={embeddings}: give one name per class, and one more embedding."
        )
    return tuple(names)

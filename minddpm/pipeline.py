"""Load and save a trained model with its diffusion process, as a diffusers pipeline.

A run directory is such a pipeline; diffusers.DiffusionPipeline.from_pretrained(directory) opens it:

    model_index.json                     the classes of the two parts
    unet/                                the model: see models/pretrained.py
    scheduler/scheduler_config.json      the process: see diffusion/scheduler_file.py
"""

from pathlib import Path
from typing import NamedTuple

from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.scheduler_file import load_diffusion, scheduler_config
from minddpm.models import UNet2D
from minddpm.storage.json_files import diffusers_header, write_json


class Pipeline(NamedTuple):
    """A model and the diffusion process for which it was trained."""

    unet: UNet2D
    diffusion: GaussianDiffusion


def load(directory: str | Path) -> Pipeline:
    """Return the model in a directory and its diffusion process: (unet, diffusion).

    directory: a run directory, or one that diffusers' save_pretrained wrote. The schedule,
    the prediction and the variance are those used in training; the weights are the EMA weights.
    The sampler of a pipeline that diffusers saved, with its spacing, is generate's default.
    Raises InputError for missing, damaged or unsupported files.
    """
    return Pipeline(UNet2D.from_pretrained(directory), load_diffusion(directory))


def save_pipeline(unet: UNet2D, diffusion: GaussianDiffusion, directory: str | Path) -> None:
    """Write a directory that load() and diffusers.DiffusionPipeline.from_pretrained open."""
    directory = Path(directory)
    unet.save_pretrained(directory / "unet")
    config = scheduler_config(diffusion)
    write_json(directory / "scheduler" / "scheduler_config.json", config)
    scheduler = config["_class_name"]  # DDIMScheduler or LCMScheduler if the model was distilled
    pipeline = "DDIMPipeline" if scheduler == "DDIMScheduler" else "DDPMPipeline"
    if unet.num_classes:
        pipeline = "ConsistencyModelPipeline"  # the one with class_labels; it runs any scheduler
    index = {
        **diffusers_header(pipeline),
        "scheduler": ["diffusers", scheduler],
        "unet": ["diffusers", "UNet2DModel"],
    }
    write_json(directory / "model_index.json", index)

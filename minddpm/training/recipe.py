"""Recipes: a model, its diffusion process and the options of its training, chosen together."""

from dataclasses import replace
from typing import Any, NamedTuple

from minddpm import random
from minddpm.data import ImageDataset
from minddpm.diffusion import GaussianDiffusion, schedules
from minddpm.models import ONE_BLOCK, SMALL, UNet2D
from minddpm.training.ddpm import Trainer
from minddpm.training.options import TrainingOptions
from minddpm.training.run_directory import RunDirectory


class Recipe(NamedTuple):
    """model: the configuration of the UNet; schedule: a name in schedules.BY_NAME."""

    model: dict[str, Any]
    schedule: str
    prediction: str
    options: TrainingOptions

    def diffusion(self, T: int = 1000) -> GaussianDiffusion:
        """Return the diffusion process of T timesteps."""
        return GaussianDiffusion(schedules.BY_NAME[self.schedule](T), self.prediction)

    def trainer(
        self, dataset: ImageDataset, run: RunDirectory, T: int = 1000, **changes: Any
    ) -> Trainer:
        """Return the trainer of square images before its first step; changes: of the options."""
        options = replace(self.options, **changes)
        _, H, _, C = dataset.images.shape
        of_the_data = {"sample_size": H, "in_channels": C, "out_channels": C}
        if options.class_conditional:
            of_the_data["num_class_embeds"] = dataset.num_classes + 1  # the last: no class
        random.manual_seed(options.seed)
        unet = UNet2D(**{**self.model, **of_the_data})
        return Trainer(unet, self.diffusion(T), dataset, run, options)


# Ho et al. 2020 for digits: a linear schedule, the noise as target, Adam at a constant rate.
PLAIN = Recipe(SMALL, "linear", "epsilon", TrainingOptions())

# The best digits that we know of for five minutes on two cores; docs/results.md has what was tried.
DIGITS = Recipe(
    model=ONE_BLOCK,  # half the work of a step, so twice the steps
    schedule="cosine",  # linear spends a third of its t on images that are all but noise
    prediction="v",  # the noise says little about the image at large t, the image at small t
    options=TrainingOptions(
        optimizer="muon",  # a step of Adam serves few directions of a weight matrix (nn/muon.py)
        lr=2e-3,  # 4e-3 was no better
        steps=2900,  # five minutes
        cooldown=0.25,  # at a constant rate the last steps only jump about the minimum
        ema_decay=0.995,  # averages 200 steps, well within the cooldown; .999 remembers the start
        draw_t="log-snr",  # fewer steps at both ends, almost clean and almost noise (draw_t.py)
        class_conditional=True,  # this helps more than all of the above
    ),
)

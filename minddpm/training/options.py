"""The options of a training run."""

import math
from dataclasses import dataclass

from minddpm import nn, random
from minddpm.diffusion.losses import LOSSES
from minddpm.errors import InputError

OPTIMIZERS = {"adam": nn.Adam, "muon": nn.Muon}
T_DRAWS = ("uniform", "log-snr", "low-discrepancy")


@dataclass(frozen=True)
class LoopOptions:
    """Options of every training run. Together with data and model they determine the weights."""

    steps: int = 1400
    batch_size: int = 32
    lr: float = 1e-3
    warmup_steps: int = 100
    cooldown: float = 0.0
    clip_norm: float = 1.0
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        random.check_seed(self.seed)
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: choose at least 1.")
        for name in ("lr", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)}: choose a number above 0.")
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)}: choose 0 or a number above 0.")
        if not 0 <= self.ema_decay <= 1:
            raise InputError(f"ema_decay={self.ema_decay}: choose 0 (no average) .. 1.")
        if not 0 <= self.cooldown <= 1:
            raise InputError(f"cooldown={self.cooldown}: choose 0 (a constant rate) .. 1.")

    @property
    def cooldown_begins(self) -> int:
        """Return the step after which the learning rate falls: `steps` if it never falls."""
        return self.steps - round(self.cooldown * self.steps)

    def learning_rate(self, lr: float, step: int) -> float:
        """Return the learning rate at step 0, 1, ...: `lr` after warm-up and cooldown."""
        factor = nn.cooldown(step, self.steps, self.cooldown_begins)
        return nn.warmup_lr(lr, step, self.warmup_steps) * factor


@dataclass(frozen=True)
class TrainingOptions(LoopOptions):
    """Options of the training of a DDPM."""

    optimizer: str = "adam"
    loss: str = "simple"
    draw_t: str = "uniform"
    importance_sampling: bool = False
    class_conditional: bool = False
    label_dropout: float = 0.1
    flip: bool = False
    accumulate: int = 1

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        super().__post_init__()
        if self.accumulate < 1:
            raise InputError(f"accumulate={self.accumulate}: choose at least 1.")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(
                f"unknown optimizer {self.optimizer!r}: choose {', '.join(OPTIMIZERS)}."
            )
        if self.loss not in LOSSES:
            raise InputError(f"unknown loss {self.loss!r}: choose {', '.join(LOSSES)}.")
        if self.draw_t not in T_DRAWS:
            raise InputError(f"unknown draw_t {self.draw_t!r}: choose {', '.join(T_DRAWS)}.")
        if not 0 <= self.label_dropout <= 1:
            raise InputError(f"label_dropout={self.label_dropout}: choose 0 .. 1.")

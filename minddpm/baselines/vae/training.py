"""Train a VAE; the weight of the KL term grows from zero."""

import math
from dataclasses import dataclass, field

import numpy as np

from minddpm import backend, random
from minddpm.autodiff import Tensor
from minddpm.backend import Array
from minddpm.baselines.model_file import save_model
from minddpm.baselines.model_loop import ModelLoop
from minddpm.data import to_float
from minddpm.errors import InputError
from minddpm.training.options import LoopOptions

VAE_FILE = "vae.safetensors"


@dataclass(frozen=True)
class VAEOptions(LoopOptions):
    """Options of a VAE's training; default: ten epochs of MNIST."""

    steps: int = 4690
    batch_size: int = 128
    clip_norm: float = 100.0  # large, since the loss is a sum over the pixels of an image
    beta: float = field(default=1.0, metadata={"help": "weight of the KL; 1 is the bound itself"})
    kl_warmup_steps: int = field(default=500, metadata={"help": "steps in which beta grows from 0"})

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        super().__post_init__()
        for name in ("beta", "kl_warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)}: choose 0 or a number above 0.")


class VAELoop(ModelLoop):
    """Trains a VAE on -ELBO; the noise is a function of (seed, step)."""

    quantity_names = ("loss", "reconstruction", "kl")

    def quantities(self, chosen: np.ndarray, step: int) -> tuple[Tensor | Array, ...]:
        x = backend.xp.asarray(to_float(self.dataset.images[chosen]))
        shape = len(chosen), self.module.latent
        noise = random.normal(shape, self.options.seed, random.LATENT, step)
        loss, reconstruction, kl = self.module.elbo(x, noise, self.beta(step))
        return loss, reconstruction.data, kl.data.sum(axis=1)

    def beta(self, step: int) -> float:
        """Return the weight of the KL at step 0, 1, ...

        If the KL had its full weight from the start, the encoder would first minimise it by
        q(z|x) = N(0, I), and the decoder would learn to ignore z; training may not leave this state
        (Bowman et al. 2016, section 3.1).
        """
        options = self.options
        return options.beta * min(1.0, (step + 1) / max(1, options.kl_warmup_steps))

    def export(self) -> None:
        """Write the model with its averaged weights."""
        with self.ema.applied():
            save_model(self.module, self.run.path / VAE_FILE)

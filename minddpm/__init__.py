"""minddpm: denoising diffusion from arrays alone.

Read, in this order: backend.py (which arrays, which kernels), autodiff/ (how a gradient comes
back), nn/ (layers), models/ (the UNet), diffusion/ (the mathematics), training.py (the loop).
"""

from pathlib import Path

# In a checkout kernels/ stands beside minddpm/ (see setup.cfg). An installed package has it inside;
# for one that is used straight from the checkout, Python has to be told.
_checkout = Path(__file__).parent.parent
if (_checkout / "kernels" / "reference.py").is_file() and str(_checkout) not in __path__:
    __path__.append(str(_checkout))

from minddpm import autodiff, nn  # noqa: E402
from minddpm.autodiff import Tensor, gradcheck, no_grad  # noqa: E402
from minddpm.backend import set_backend  # noqa: E402
from minddpm.diffusion import GaussianDiffusion, samplers, schedules  # noqa: E402
from minddpm.errors import GraphError, InputError  # noqa: E402
from minddpm.models import PAPER, SMALL, UNet2D  # noqa: E402
from minddpm.random import manual_seed  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "PAPER",
    "SMALL",
    "GaussianDiffusion",
    "GraphError",
    "InputError",
    "Tensor",
    "UNet2D",
    "autodiff",
    "gradcheck",
    "manual_seed",
    "nn",
    "no_grad",
    "samplers",
    "schedules",
    "set_backend",
]

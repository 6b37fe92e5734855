"""minddpm: denoising diffusion from arrays alone.

Start with diffusion/algorithms.py, then read upwards: backend.py (which arrays, which kernels),
autodiff/ (how a gradient comes back), nn/ (layers), models/ (the UNet), diffusion/ (the
mathematics), training/ (the loop).
"""

from pathlib import Path

# In a checkout kernels/ stands beside minddpm/ (see setup.cfg). An installed package has it inside;
# for one that is used straight from the checkout, Python has to be told.
_checkout = Path(__file__).parent.parent
if (_checkout / "kernels" / "reference").is_dir() and str(_checkout) not in __path__:
    __path__.append(str(_checkout))

from minddpm import autodiff, data, nn  # noqa: E402
from minddpm.autodiff import Tensor, gradcheck, no_grad  # noqa: E402
from minddpm.backend import set_backend  # noqa: E402
from minddpm.diffusion import GaussianDiffusion, samplers, schedules  # noqa: E402
from minddpm.errors import GraphError, InputError  # noqa: E402
from minddpm.generate import generate  # noqa: E402
from minddpm.models import ONE_BLOCK, PAPER, SMALL, UNet2D  # noqa: E402
from minddpm.pipeline import load  # noqa: E402
from minddpm.random import manual_seed  # noqa: E402
from minddpm.replay import replayed  # noqa: E402
from minddpm.training import Trainer  # noqa: E402
from minddpm.version import __version__  # noqa: E402

__all__ = [
    "ONE_BLOCK",
    "PAPER",
    "SMALL",
    "GaussianDiffusion",
    "GraphError",
    "InputError",
    "Tensor",
    "Trainer",
    "UNet2D",
    "__version__",
    "autodiff",
    "data",
    "generate",
    "gradcheck",
    "load",
    "manual_seed",
    "nn",
    "no_grad",
    "replayed",
    "samplers",
    "schedules",
    "set_backend",
]

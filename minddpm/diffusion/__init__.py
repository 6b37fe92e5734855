"""The mathematics of diffusion.

Read algorithms.py (all of it on one screen), schedules.py, forward.py (q), reverse.py (p),
bound.py with decoder.py, losses.py, and sampling/.
"""

from minddpm.diffusion import sampling, schedules
from minddpm.diffusion.losses import GaussianDiffusion

samplers = sampling  # the name under which users know it

__all__ = ["GaussianDiffusion", "samplers", "sampling", "schedules"]

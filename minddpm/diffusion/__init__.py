"""The mathematics of diffusion. Read schedules.py, gaussian.py, samplers.py."""

from minddpm.diffusion import samplers, schedules
from minddpm.diffusion.gaussian import GaussianDiffusion

__all__ = ["GaussianDiffusion", "samplers", "schedules"]

"""The mathematics of diffusion.

Read schedules.py, process.py (q), gaussian.py (p and the losses), walk.py and samplers.py; then
bound.py with decoder.py, importance.py, guidance.py, ode.py and editing.py in any order.
"""

from minddpm.diffusion import samplers, schedules
from minddpm.diffusion.gaussian import GaussianDiffusion

__all__ = ["GaussianDiffusion", "samplers", "schedules"]

"""Sampling: from noise to images. Samplers are generators that yield every step.

    for step in ddim(diffusion, model, (64, 28, 28, 1), steps=50, seed=0):
        step.x, step.pred_x0, step.t

Read steps.py (the arguments that all share), ddpm.py (Algorithm 2), ddim.py, dpm_solver.py,
pndm.py, ode.py, consistency.py; then inpaint.py, interpolate.py and guidance.py; respacing.py and
diffusers_steps.py say at which timesteps other projects sample. Each loop is in the terms of its
own paper.
"""

from minddpm.diffusion.sampling.consistency import consistency
from minddpm.diffusion.sampling.ddim import ddim
from minddpm.diffusion.sampling.ddpm import ddpm
from minddpm.diffusion.sampling.dpm_solver import dpm_solver
from minddpm.diffusion.sampling.guidance import Guided
from minddpm.diffusion.sampling.inpaint import inpaint
from minddpm.diffusion.sampling.interpolate import interpolate, nearer_labels, slerp
from minddpm.diffusion.sampling.ode import invert, probability_flow, probability_flow_adaptive
from minddpm.diffusion.sampling.pndm import pndm
from minddpm.diffusion.sampling.steps import Step, log_snr_timesteps, timesteps

__all__ = [
    "Guided",
    "Step",
    "consistency",
    "ddim",
    "ddpm",
    "dpm_solver",
    "inpaint",
    "interpolate",
    "invert",
    "log_snr_timesteps",
    "nearer_labels",
    "pndm",
    "probability_flow",
    "probability_flow_adaptive",
    "slerp",
    "timesteps",
]

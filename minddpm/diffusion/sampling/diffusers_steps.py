"""The timesteps and noise levels at which diffusers' schedulers sample, as values of `spacing`."""

from typing import NamedTuple

import numpy as np

from minddpm.diffusion.reverse import ReverseProcess
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.errors import InputError


class DiffusersSteps(NamedTuple):
    """The steps of a scheduler: (process, steps) -> [(t, ac, ac_prev), ...], t falling.

    scheduler: "DDPM", "DDIM", "DPMSolver" or "Euler". spacing: leading, trailing or linspace.
    offset: added to t if the spacing is leading. last_ac: "one", or "first" for alphas_cumprod[0]
    in place of 1 in the last step (set_alpha_to_one). What differs from steps.py:
    DDIM goes to t - T // steps, not to the next visited t, also where that is another one;
    DPMSolver leaves out the lowest of steps + 1 timesteps, unless the spacing is trailing;
    Euler's linspace visits times between the timesteps, where sigma is interpolated.
    One step is at T-1 and T steps visit all timesteps, as everywhere here.
    """

    scheduler: str
    spacing: str
    offset: int = 0
    last_ac: str = "one"

    def __call__(self, d: ReverseProcess, steps: int | None) -> list[tuple[float, float, float]]:
        steps, T = d.T if steps is None else steps, d.T
        t = self.visited(T, steps)
        if t[-1] >= T or not (np.diff(t) > 0).all():
            raise InputError(
                f"{steps} steps of the model's own spacing ({self.spacing}, offset {self.offset}) "
                f"do not fit in T = {T}: choose fewer steps, or another spacing."
            )
        ac = d.alphas_cumprod[t.astype(np.int64)]
        if self.scheduler == "Euler":
            sigma = np.sqrt(1 / d.alphas_cumprod - 1)
            ac = 1 / (1 + np.interp(t, np.arange(T), sigma) ** 2)
        last = 1.0 if self.last_ac == "one" else d.alphas_cumprod[0]
        before = np.append(last, ac[:-1])
        if self.scheduler == "DDIM":
            to = t.astype(np.int64) - T // steps
            before = np.where(to >= 0, d.alphas_cumprod[to], last)
        return list(zip(t.tolist(), ac.tolist(), before.tolist(), strict=True))[::-1]

    def visited(self, T: int, steps: int) -> np.ndarray:
        """Return the timesteps, increasing: int64, but float64 for Euler's linspace."""
        if steps in (1, T) or self.spacing == "trailing":
            return timesteps(T, steps, "trailing")
        timesteps(T, steps)  # checks steps
        extra = int(self.scheduler == "DPMSolver")
        if self.spacing == "leading":
            stride = T // (steps + extra)
            return np.arange(extra, steps + extra) * stride + self.offset
        t = np.linspace(0, T - 1, steps + extra)[extra:]
        return t if self.scheduler == "Euler" else t.round().astype(np.int64)
